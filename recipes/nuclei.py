"""Cell nuclei under microscopes, marked pixel by pixel: a small U-Net, trained here in minutes. The data: see ``_nuclei.py``.

The network is that of Ronneberger et al., "U-Net: Convolutional Networks for Biomedical Image Segmentation", 2015, with fewer and
narrower levels, batch norm, and half the resolution inside.
"""

from __future__ import annotations

import torch
from _nuclei import LABELS, PREPROCESSING, SIDE, Turned, pictures
from _trained import trained_task
from torch import Tensor, nn
from torch.nn import functional as F

from edgeprune.task import Task
from edgeprune.tasks import segmentation

WIDTHS = (16, 32, 64)


def level(width_in: int, width: int, stride: int = 1) -> nn.Sequential:
    """Two 3 x 3 convolutions with batch norm and ReLU."""
    layers: list[nn.Module] = []
    for before, step in ((width_in, stride), (width, 1)):
        layers += [nn.Conv2d(before, width, 3, step, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Pictures of 3 x 160 x 160 in, scores of 2 classes for every pixel out."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(level(before, width, 2) for before, width in zip((3, *WIDTHS), WIDTHS, strict=False))
        self.up = nn.ModuleList(level(before + width, width) for before, width in zip(WIDTHS[:0:-1], WIDTHS[-2::-1], strict=True))
        self.head = nn.Conv2d(WIDTHS[0], len(LABELS), 1)

    def forward(self, inputs: Tensor) -> Tensor:
        kept: list[Tensor] = []
        for down in self.down:
            inputs = down(inputs)
            kept.append(inputs)
        for up, beside in zip(self.up, kept[-2::-1], strict=True):
            inputs = up(torch.cat([F.interpolate(inputs, scale_factor=2.0, mode="nearest"), beside], 1))
        return F.interpolate(self.head(inputs), scale_factor=2.0, mode="bilinear", align_corners=False)


def network() -> UNet:
    """With random weights."""
    return UNet()


def make_task(model: nn.Module) -> Task:
    """Finding nuclei, for any ``model`` of 3 x 160 x 160 inputs."""
    settings = {"labels": LABELS, "preprocessing": PREPROCESSING, "example_inputs": (torch.zeros(1, 3, SIDE, SIDE),)}
    return segmentation(model, Turned(pictures(0)), pictures(1, 2), metric="dice", batch_size=8, **settings)


LESSON = {"epochs": 8, "learning_rate": 0.05}
"""How the network is trained."""


def task() -> Task:
    return trained_task(__file__, network, make_task, LESSON, epochs=3, learning_rate=0.02, distillation=0.5)
