"""Normal or ventricular heart beats (MIT-BIH), classified by a small 1-D CNN, trained here in seconds.

The data folder holds ``ecg/ecg_nsv.npz``, made of https://physionet.org/content/mitdb/1.0.0/: beats of 128 samples at 180 Hz, int16
(``xtr``, ``xte``), with classes 0 normal, 1 supraventricular, 2 ventricular (``ytr``, ``yte``). The test beats are other patients'.
Supraventricular beats are left out: they differ from normal ones by when they come, which one beat does not show.
"""

from __future__ import annotations

import numpy as np
import torch
from _data import Batches, data_folder, no_file
from _trained import trained_task
from torch import Tensor, nn

from edgeprune.task import Task

LABELS = ("normal", "ventricular")
SAMPLES = 128


def convolution(width_in: int, width: int, window: int, stride: int) -> nn.Sequential:
    """A convolution in time, of images one pixel high, with batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(width_in, width, (1, window), (1, stride), (0, window // 2), bias=False), nn.BatchNorm2d(width), nn.ReLU()
    )


def network() -> nn.Sequential:
    """Beats of 1 x 1 x 128 in, scores of 2 classes out."""
    return nn.Sequential(
        convolution(1, 64, 7, 2),
        convolution(64, 128, 5, 2),
        convolution(128, 128, 5, 2),
        convolution(128, 128, 3, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(128, len(LABELS)),
    )


def beats(part: str) -> tuple[Tensor, Tensor]:
    """Beats of ``part`` ("tr" or "te"), each less its mean and over its deviation, (N, 1, 1, 128), and their classes."""
    path = data_folder("ecg") / "ecg" / "ecg_nsv.npz"
    if not path.is_file():
        raise no_file(path)
    with np.load(path) as arrays:
        signals, classes = arrays[f"x{part}"].astype(np.float32), arrays[f"y{part}"]
    chosen = classes != 1
    signals = signals[chosen]
    signals = (signals - signals.mean(1, keepdims=True)) / (signals.std(1, keepdims=True) + 1)
    return torch.from_numpy(signals)[:, None, None], torch.from_numpy(classes[chosen] // 2).long()


def changed(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Beats up to 8 samples earlier or later, stronger or weaker, with noise and a wandering baseline."""
    count, length = len(inputs), inputs.shape[-1]
    padded = torch.nn.functional.pad(inputs[:, 0], (8, 8), mode="replicate")
    places = torch.arange(length) + torch.randint(0, 17, (count, 1, 1), generator=generator)
    gain, slope, noise = (torch.randn(shape, generator=generator) for shape in ((count, 1, 1), (count, 1, 1), (count, 1, length)))
    moved = padded.gather(2, places) * (1 + 0.2 * gain) + 0.3 * slope * torch.linspace(-1, 1, length) + 0.05 * noise
    return moved[:, None]


def make_task(model: nn.Module) -> Task:
    """Telling the beats apart, for any ``model`` of 1 x 1 x 128 inputs."""
    train = Batches(*beats("tr"), 64, shuffle=True, change=changed)
    validation = Batches(*beats("te"), 300)
    return Task(model, (torch.zeros(1, 1, 1, SAMPLES),), train, validation, labels=LABELS)


LESSON = {"epochs": 12, "learning_rate": 0.05}
"""How the network is trained."""


def task() -> Task:
    preprocessing = {
        "input": "128 samples of one beat at 180 Hz, less their own mean, over their own standard deviation plus 1: 1 x 1 x 128",
        "sample_rate_hz": 180,
    }
    return trained_task(__file__, network, make_task, LESSON, epochs=6, learning_rate=0.02, distillation=0.5, preprocessing=preprocessing)
