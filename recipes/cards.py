"""Playing cards among clutter, and their ranks: a small SSD, trained here in minutes.

The data folder holds ``cards/`` (see ``_boxes.py``): 296 photos to train on, 67 to score on, which show the same places. They come at
160 x 120, half their size.
"""

from __future__ import annotations

from typing import Any

from _boxes import Photos, photos
from _data import data_set
from _trained import trained_task
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD

from edgeprune.task import Task
from edgeprune.tasks import detection

CLASSES = ("nine", "ten", "jack", "queen", "king", "ace")
SIZE = (160, 120)


def convolution(width_in: int, width: int, stride: int) -> nn.Sequential:
    """A 3 x 3 convolution with batch norm and ReLU."""
    return nn.Sequential(nn.Conv2d(width_in, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())


class Backbone(nn.Module):
    """Photos in, feature maps of an eighth and of a sixteenth of their size out."""

    out_channels = (96, 128)

    def __init__(self) -> None:
        super().__init__()
        sizes = ((3, 16, 2), (16, 32, 1), (32, 48, 2), (48, 64, 1), (64, 96, 2), (96, 96, 1))
        self.first = nn.Sequential(*(convolution(*size) for size in sizes))
        self.second = nn.Sequential(convolution(96, 128, 2), convolution(128, 128, 1))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        first = self.first(images)
        return {"first": first, "second": self.second(first)}


def detector() -> SSD:
    """With random weights; labels are 1 to 6."""
    boxes = DefaultBoxGenerator([[2], [2]], scales=[0.2, 0.35, 0.6])
    return SSD(Backbone(), boxes, SIZE[::-1], 1 + len(CLASSES), topk_candidates=100, detections_per_img=50)


def network() -> nn.Module:
    """The part of it that runs on a device."""
    return detection(detector(), image_size=SIZE).model


def make_task(model: Any) -> Task:
    """Finding cards, for a ``model`` as :func:`network` makes it."""
    whole = detector()
    whole.backbone, whole.head = model.backbone, model.head
    train, test = (photos(data_set("cards", "cards"), CLASSES, SIZE, [part]) for part in ("train", "test"))
    data: dict[str, Any] = {"train": Photos(train, 8, augment=True), "test": Photos(test, 12)}
    return detection(whole, **data, labels=CLASSES, image_size=SIZE)


LESSON = {"epochs": 18, "learning_rate": 0.01}
"""How the network is trained."""


def task() -> Task:
    return trained_task(__file__, network, make_task, LESSON, epochs=6, learning_rate=0.005, distillation=0.5)
