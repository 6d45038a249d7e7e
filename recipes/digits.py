"""Handwritten digits from scikit-learn and a small residual CNN, trained here in seconds: needs no data and no network."""

from __future__ import annotations

import torch
from _data import ImageBatches
from _trained import trained_task
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from edgeprune.task import Task

LABELS = tuple("0123456789")
SIDE = 16  # pixels; the originals have 8
MEAN, STD = (0.31,), (0.35,)
HELD_OUT = 500  # the last images, of writers who come late in the file


class Residual(nn.Module):
    """Two 3 x 3 convolutions with batch norm, and what came in added."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = F.relu(self.norm1(self.conv1(inputs)))
        return F.relu(self.norm2(self.conv2(hidden)) + inputs)


def convolution(width_in: int, width: int, stride: int) -> nn.Sequential:
    """A 3 x 3 convolution with batch norm and ReLU."""
    return nn.Sequential(nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())


def network() -> nn.Sequential:
    """Images of 1 x 16 x 16 in, scores of 10 digits out; 43 million multiplications an image."""
    return nn.Sequential(
        convolution(1, 64, 1),
        Residual(64),
        convolution(64, 128, 2),
        Residual(128),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


def images() -> tuple[Tensor, Tensor]:
    """All 1,797 digits as uint8 (N, 16, 16, 1), and their labels."""
    pixels, labels = load_digits(return_X_y=True)
    small = torch.from_numpy(pixels).float().view(-1, 1, 8, 8) * (255 / 16)
    large = F.interpolate(small, (SIDE, SIDE), mode="bilinear", align_corners=False)
    return large.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous(), torch.from_numpy(labels).long()


def make_task(model: nn.Module) -> Task:
    """The task of telling digits for any ``model`` of 1 x 16 x 16 inputs."""
    pixels, labels = images()
    train = ImageBatches(pixels[:-HELD_OUT], labels[:-HELD_OUT], 64, MEAN, STD, augment=True, crop=1)
    validation = ImageBatches(pixels[-HELD_OUT:], labels[-HELD_OUT:], 250, MEAN, STD)
    preprocessing = {"input": "grey image of 16 x 16 pixels, 0 to 255", "scale": 255, "mean": MEAN, "std": STD}
    return Task(model, (torch.zeros(1, 1, SIDE, SIDE),), train, validation, labels=LABELS, preprocessing=preprocessing)


LESSON = {"epochs": 4, "learning_rate": 0.1}
"""How the network is trained."""


def task() -> Task:
    return trained_task(__file__, network, make_task, LESSON, epochs=6, learning_rate=0.05)
