"""Keywords (Speech Commands, 10 words and unknown ones): a recurrent network (GRU) on log-mel spectrograms, trained here in minutes.

The data are those of ``_keywords.py``. A GRU of the kind of Zhang et al., "Hello Edge", 2017, section 4. For sound that does not
end, :class:`Streaming` is the same network, pruned or not, with its state as an input and an output: export it as a file of its own.
"""

from __future__ import annotations

import torch
from _keywords import LABELS, make_task
from _speech import MELS
from _trained import trained_task
from torch import Tensor, nn

from edgeprune.task import Task

WIDTH, STATE = 64, 96


class Recurrent(nn.Module):
    """Spectrograms of 1 x 32 x 49 (bands, frames) in, scores of 11 classes out; a linear layer and the GRU for every frame."""

    def __init__(self) -> None:
        super().__init__()
        self.frame, self.gru = nn.Linear(MELS, WIDTH), nn.GRU(WIDTH, STATE, batch_first=True)
        self.drop, self.head = nn.Dropout(0.2), nn.Linear(STATE, len(LABELS))

    def forward(self, inputs: Tensor) -> Tensor:
        frames = torch.relu(self.frame(inputs.squeeze(1).transpose(1, 2)))
        return self.head(self.drop(self.gru(frames)[0][:, -1]))


class Streaming(nn.Module):
    """``model``, a :class:`Recurrent`, some frames at a time: (1, frames, 32) and the state (1, 1, width of the GRU) in, scores and the
    next state out. All frames of a clip, one after the other from a state of zeros, give what ``model`` gives for the clip."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.frame, self.gru, self.head = model.frame, model.gru, model.head

    def forward(self, frames: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        found, state = self.gru(torch.relu(self.frame(frames)), state)
        return self.head(found[:, -1]), state


def network() -> Recurrent:
    """With random weights."""
    return Recurrent()


LESSON = {"epochs": 30, "learning_rate": 0.004}
"""How the network is trained."""


def task() -> Task:
    return trained_task(__file__, network, make_task, LESSON, epochs=8, learning_rate=0.002, distillation=0.5)
