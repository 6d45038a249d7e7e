"""Spoken digits (FSDD): a depthwise-separable CNN on log-mel spectrograms, trained here in under a minute.

The data folder holds ``fsdd/<digit>_<speaker>_<n>.wav``, or a clone of https://github.com/Jakobovski/free-spoken-digit-dataset: 8 kHz, 16
bits, one word each. The test is the data set's own: recordings with n below 5. The network is a small DS-CNN of Zhang et
al., "Hello Edge", 2017.
"""

from __future__ import annotations

import numpy as np
import torch
from _data import Batches, data_set, no_file
from _speech import FRAMES, MELS, PREPROCESSING, changed, spectrogram
from _trained import trained_task
from scipy.io import wavfile
from torch import Tensor, nn

from edgeprune.task import Task

LABELS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def convolution(width_in: int, width: int, window: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution with batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(width_in, width, window, stride, window // 2, groups=groups, bias=False), nn.BatchNorm2d(width), nn.ReLU()
    )


def separable(width_in: int, width: int, stride: int = 1) -> nn.Sequential:
    """A 3 x 3 depthwise and a 1 x 1 convolution."""
    return nn.Sequential(convolution(width_in, width_in, 3, stride, groups=width_in), convolution(width_in, width, 1))


def network() -> nn.Sequential:
    """Spectrograms of 1 x 32 x 49 (bands, frames) in, scores of 10 digits out; 7 million multiplications."""
    return nn.Sequential(
        convolution(1, 64, 5, stride=2),
        separable(64, 64),
        separable(64, 128, stride=2),
        separable(128, 128),
        separable(128, 128),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(128, len(LABELS)),
    )


def recordings(held_out: bool) -> tuple[Tensor, Tensor]:
    """Spectrograms, (N, 1, 32, 49), and digits of the test recordings or of the others."""
    folder = data_set("fsdd", "fsdd", "free-spoken-digit-dataset/recordings")
    paths = sorted(folder.glob("*_*_*.wav"))
    if not paths:
        raise no_file(folder / "*.wav")
    wanted = [path for path in paths if (int(path.stem.split("_")[2]) < 5) == held_out]
    spectrograms = [spectrogram(wavfile.read(path)[1] / 2.0**15) for path in wanted]
    return torch.from_numpy(np.stack(spectrograms))[:, None], torch.tensor([int(path.stem[0]) for path in wanted])


def make_task(model: nn.Module) -> Task:
    """Telling the digits apart, for any ``model`` of 1 x 32 x 49 inputs."""
    train = Batches(*recordings(held_out=False), 64, shuffle=True, change=changed)
    validation = Batches(*recordings(held_out=True), 250)
    return Task(model, (torch.zeros(1, 1, MELS, FRAMES),), train, validation, labels=LABELS)


LESSON = {"epochs": 12, "learning_rate": 0.1}
"""How the network is trained."""


def task() -> Task:
    return trained_task(__file__, network, make_task, LESSON, epochs=6, learning_rate=0.05, distillation=0.5, preprocessing=PREPROCESSING)
