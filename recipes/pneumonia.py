"""Pneumonia in children's chest X-rays (PneumoniaMNIST): a small CNN, trained here in seconds; scored by the area under the ROC curve.

The data folder holds ``pneumoniamnist/pneumoniamnist.npz`` of MedMNIST (https://zenodo.org/records/10519652): ``<part>_images`` (N, 28, 28)
and ``<part>_labels``, 0 normal and 1 pneumonia, for the parts train, val and test. The last two are scored on. ``pneumonia_sensitivity.py``
is the same with the share of the ill that are found, where 90 % of the healthy are left alone: there ``--max-drop 2`` is a floor of that.
"""

from __future__ import annotations

import numpy as np
import torch
from _data import Batches, data_folder, no_file
from _scores import Screening
from _trained import trained_task
from mnist import shifted
from torch import Tensor, nn

from edgeprune.task import Task

LABELS = ("normal", "pneumonia")


def convolution(width_in: int, width: int, stride: int = 1) -> nn.Sequential:
    """A 3 x 3 convolution with batch norm and ReLU."""
    return nn.Sequential(nn.Conv2d(width_in, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())


def network() -> nn.Sequential:
    """Images of 1 x 28 x 28 in, scores of 2 classes out."""
    layers = [convolution(1, 32, 2), convolution(32, 32), convolution(32, 64, 2), convolution(64, 64)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, len(LABELS)))


def pictures(*parts: str) -> tuple[Tensor, Tensor]:
    """Pictures from -1 to 1, (N, 1, 28, 28), and their classes."""
    path = data_folder("pneumoniamnist") / "pneumoniamnist" / "pneumoniamnist.npz"
    if not path.is_file():
        raise no_file(path)
    with np.load(path) as data:
        images = np.concatenate([data[f"{part}_images"] for part in parts])
        classes = np.concatenate([data[f"{part}_labels"] for part in parts])
    return torch.from_numpy(images)[:, None] / 127.5 - 1, torch.from_numpy(classes.reshape(-1)).long()


def make_task(model: nn.Module) -> Task:
    """Finding pneumonia, for any ``model`` of 1 x 28 x 28 inputs."""
    train = Batches(*pictures("train"), 64, shuffle=True, change=shifted)
    validation = Batches(*pictures("val", "test"), 200)
    preprocessing = {"input": "grey X-ray of 28 x 28 pixels, 0 to 255: 1 x 28 x 28", "scale": 255, "mean": 0.5, "std": 0.5}
    return Task(
        *(model, (torch.zeros(1, 1, 28, 28),), train, validation),
        **{"metric": Screening(), "metric_name": "AUC", "metric_unit": "%"},
        labels=LABELS,
        preprocessing=preprocessing,
    )


LESSON = {"epochs": 6, "learning_rate": 0.02}
"""How the network is trained."""


def task() -> Task:
    return trained_task(__file__, network, make_task, LESSON, epochs=4, learning_rate=0.01, distillation=0.5)
