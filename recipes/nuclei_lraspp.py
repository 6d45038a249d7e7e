"""Cell nuclei under microscopes, marked by torchvision's LR-ASPP on MobileNetV3-Large, trained here from random weights in minutes.

The data: see ``_nuclei.py``. The network: Howard et al., "Searching for MobileNetV3", 2019, section 6.4.
"""

from __future__ import annotations

import torch
from _nuclei import LABELS, PREPROCESSING, SIDE, Turned, pictures
from _trained import trained_task
from torch import nn
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

from edgeprune.task import Task
from edgeprune.tasks import segmentation
from edgeprune.tasks.segmentation import Scores


def network() -> nn.Module:
    """Pictures of 3 x 160 x 160 in, scores of 2 classes for every pixel out."""
    return Scores(lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=len(LABELS)))


def make_task(model: nn.Module) -> Task:
    """Finding nuclei, for any ``model`` of 3 x 160 x 160 inputs."""
    settings = {"labels": LABELS, "preprocessing": PREPROCESSING, "example_inputs": (torch.zeros(1, 3, SIDE, SIDE),)}
    return segmentation(model, Turned(pictures(0)), pictures(1, 2), metric="dice", batch_size=8, **settings)


LESSON = {"epochs": 8, "learning_rate": 0.05}
"""How the network is trained."""


def task() -> Task:
    return trained_task(__file__, network, make_task, LESSON, epochs=4, learning_rate=0.02, distillation=0.5)
