"""Keywords (Speech Commands, 10 words and unknown ones): a small vision transformer on log-mel spectrograms, trained here in minutes.

The data folder holds ``speech_commands/``: what http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz unpacks to, a folder of
wav files a word (or ``SpeechCommands/`` as torchaudio fetches it); or ``speech_commands.npz``: ``x`` clips of a second (8 kHz, mu-law
codes), ``y`` classes, ``split`` 0 for training and 1, 2 for validation and test, by speaker. Both of the latter are scored on. The network
is a transformer in the manner of Berg et al., "Keyword Transformer", 2021, with convolutions in place of patches (Xiao et al., "Early
convolutions help transformers see better", 2021).
"""

from __future__ import annotations

import numpy as np
import torch
from _data import Batches, data_set, no_file
from _keywords import LABELS, recorded
from _speech import FRAMES, MELS, PREPROCESSING, changed, spectrogram
from _trained import trained_task
from torch import Tensor, nn
from torch.nn import functional as F

from edgeprune.task import Task

WIDTH, HEADS, BLOCKS, HIDDEN = 64, 4, 4, 192
STEM = (24, 48)
CODES = 128  # the largest mu-law code less one half of them: mu is 127


class Attention(nn.Module):
    """Every patch looks at all patches, in several heads."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.project = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, inputs: Tensor) -> Tensor:
        batch, patches, _ = inputs.shape
        query, key, value = self.qkv(inputs).reshape(batch, patches, 3, HEADS, -1).permute(2, 0, 3, 1, 4).unbind(0)
        return self.project(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(batch, patches, -1))


class Block(nn.Module):
    """Attention, then two layers for every patch by itself; each with its shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(WIDTH), Attention()
        self.norm2, self.wide, self.narrow = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)

    def forward(self, inputs: Tensor) -> Tensor:
        inputs = inputs + self.attention(self.norm1(inputs))
        return inputs + self.narrow(F.gelu(self.wide(self.norm2(inputs))))


class Transformer(nn.Module):
    """Spectrograms of 1 x 32 x 49 (bands, frames) in, scores of 11 classes out; 28 patches."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((1, *STEM), STEM, strict=False):
            layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.stem = nn.Sequential(*layers, nn.Conv2d(STEM[-1], WIDTH, 3, 2, 1))
        self.places = nn.Parameter(0.02 * torch.randn(1, 28, WIDTH))
        self.blocks = nn.Sequential(*(Block() for _ in range(BLOCKS)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, len(LABELS))

    def forward(self, inputs: Tensor) -> Tensor:
        patches = self.stem(inputs).flatten(2).transpose(1, 2) + self.places
        return self.head(self.norm(self.blocks(patches)).mean(1))


def network() -> Transformer:
    """With random weights."""
    return Transformer()


def clips(parts: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Spectrograms, (N, 1, 32, 49), and classes of the clips of ``parts``."""
    folder = data_set("speech_commands", "speech_commands", "SpeechCommands/speech_commands_v0.02", "speech_commands_v0.02")
    if (folder / "testing_list.txt").is_file():
        return recorded(folder, parts)
    path = folder / "speech_commands.npz"
    if not path.is_file():
        raise no_file(path)
    with np.load(path) as data:
        wanted = np.isin(data["split"], parts)
        codes, labels = data["x"][wanted], data["y"][wanted]
    signed = 2.0 * codes / (CODES - 1) - 1
    samples = np.sign(signed) * np.expm1(np.abs(signed) * np.log(CODES)) / (CODES - 1)
    return torch.from_numpy(np.stack([spectrogram(one) for one in samples]))[:, None], torch.from_numpy(labels).long()


def make_task(model: nn.Module) -> Task:
    """Telling the words apart, for any ``model`` of 1 x 32 x 49 inputs."""
    train = Batches(*clips((0,)), 64, shuffle=True, change=changed)
    validation = Batches(*clips((1, 2)), 250)
    return Task(model, (torch.zeros(1, 1, MELS, FRAMES),), train, validation, labels=LABELS, preprocessing=PREPROCESSING)


LESSON = {"epochs": 40, "learning_rate": 0.002}
"""How the network is trained."""


def task() -> Task:
    return trained_task(__file__, network, make_task, LESSON, epochs=6, learning_rate=0.001, distillation=0.5)
