"""Handwritten digits (MNIST): a plain CNN of two convolutions and two linear layers, trained here in a minute.

The data folder holds ``mnist/batch_<n>.png``: see ``_mnist.py``. 21,000 of the training digits are learnt from; 3,000 test digits score.
``python -m benchmarks.mnist`` prunes this network in several ways.
"""

from __future__ import annotations

import torch
from _data import Batches
from _mnist import digits
from _trained import trained_task
from torch import Tensor, nn
from torch.nn import functional as F

from edgeprune.task import Task

LABELS = tuple("0123456789")
SHIFT = 2  # pixels


def network() -> nn.Sequential:
    """Images of 1 x 28 x 28 in, scores of 10 digits out; 2.6 million multiplications, 226 thousand parameters."""
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(1600, 128), nn.ReLU(), nn.Linear(128, len(LABELS))),
    )


def shifted(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """The images of a batch, each up to two pixels off."""
    count, _, height, width = inputs.shape
    rows, columns = torch.randint(0, 2 * SHIFT + 1, (2, count, 1), generator=generator)
    padded = F.pad(inputs[:, 0], (SHIFT,) * 4)
    every = torch.arange(count).view(-1, 1, 1)
    return padded[every, (torch.arange(height) + rows).unsqueeze(2), (torch.arange(width) + columns).unsqueeze(1)].unsqueeze(1)


def make_task(model: nn.Module) -> Task:
    """Telling the digits apart, for any ``model`` of 1 x 28 x 28 inputs."""
    train = Batches(*digits(range(7)).tensors, 64, shuffle=True, change=shifted)
    validation = Batches(*digits(range(20, 21)).tensors, 500)
    preprocessing = {"input": "grey image of 28 x 28 pixels, 0 to 255, white on black: 1 x 28 x 28", "scale": 255, "mean": 0, "std": 1}
    return Task(model, (torch.zeros(1, 1, 28, 28),), train, validation, labels=LABELS, preprocessing=preprocessing)


LESSON = {"epochs": 4, "learning_rate": 0.05}
"""How the network is trained."""


def task() -> Task:
    return trained_task(__file__, network, make_task, LESSON, epochs=2, learning_rate=0.02, distillation=0.5)
