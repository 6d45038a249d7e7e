"""Keywords (Speech Commands, 10 words and unknown ones): a recurrent network (LSTM) on log-mel spectrograms, trained here in minutes.

As ``speech_commands_gru.py``, which see for sound that does not end; but TFLite runs all steps of an LSTM as one operator, and those of a
GRU as a loop of 18 small ones, whose number no pruning changes.
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
    """Spectrograms of 1 x 32 x 49 (bands, frames) in, scores of 11 classes out; a linear layer and the LSTM for every frame."""

    def __init__(self) -> None:
        super().__init__()
        self.frame, self.lstm = nn.Linear(MELS, WIDTH), nn.LSTM(WIDTH, STATE, batch_first=True)
        self.drop, self.head = nn.Dropout(0.2), nn.Linear(STATE, len(LABELS))

    def forward(self, inputs: Tensor) -> Tensor:
        frames = torch.relu(self.frame(inputs.squeeze(1).transpose(1, 2)))
        return self.head(self.drop(self.lstm(frames)[0][:, -1]))


class Streaming(nn.Module):
    """``model``, a :class:`Recurrent`, some frames at a time: (1, frames, 32) and two states, (1, 1, width of the LSTM) each, in, scores
    and the next states out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.frame, self.lstm, self.head = model.frame, model.lstm, model.head

    def forward(self, frames: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found, (hidden, cell) = self.lstm(torch.relu(self.frame(frames)), (hidden, cell))
        return self.head(found[:, -1]), hidden, cell


def network() -> Recurrent:
    """With random weights."""
    return Recurrent()


LESSON = {"epochs": 30, "learning_rate": 0.004}
"""How the network is trained."""


def task() -> Task:
    return trained_task(__file__, network, make_task, LESSON, epochs=8, learning_rate=0.002, distillation=0.5)
