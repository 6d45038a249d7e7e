"""Red and white blood cells and platelets in photos of smears: a small RetinaNet, trained here in minutes.

The data folder holds ``bccd/`` (see ``_boxes.py``), or ``BCCD_Dataset/BCCD`` as its authors distribute it. Their split: 205 photos to train
on, 87 and 72 held out, of which the last 72 are scored on. Photos come at half their size, 120 x 160.
"""

from __future__ import annotations

from typing import Any

from _boxes import Photos, photos
from _data import data_set
from _trained import trained_task
from torch import nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNetHead

from edgeprune.task import Task
from edgeprune.tasks import detection

CLASSES = ("RBC", "WBC", "Platelets")
SIZE = (120, 160)
WIDTH = 48


def convolution(width_in: int, width: int, stride: int) -> nn.Sequential:
    """A 3 x 3 convolution with batch norm and ReLU."""
    return nn.Sequential(nn.Conv2d(width_in, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())


class Backbone(nn.Sequential):
    """Photos in, one feature map of an eighth of their size out."""

    out_channels = WIDTH

    def __init__(self) -> None:
        super().__init__(*(convolution(*sizes) for sizes in ((3, 16, 2), (16, 32, 2), (32, 64, 1), (64, 64, 2), (64, 96, 1), (96, 48, 1))))


def detector() -> RetinaNet:
    """With random weights; labels are 0 to 2."""
    anchors = AnchorGenerator(((9, 15, 24, 40),), ((1.0,),))
    head = RetinaNetHead(WIDTH, 4, len(CLASSES), norm_layer=nn.BatchNorm2d)
    return RetinaNet(Backbone(), len(CLASSES), SIZE[0], SIZE[1], anchor_generator=anchors, head=head, nms_thresh=0.4)


def network() -> nn.Module:
    """The part of it that runs on a device."""
    return detection(detector(), image_size=SIZE).model


def make_task(model: Any) -> Task:
    """Finding cells, for a ``model`` as :func:`network` makes it."""
    whole = detector()
    whole.backbone, whole.head = model.backbone, model.head
    folder = data_set("bccd", "bccd", "BCCD_Dataset/BCCD", "BCCD")
    train, test = (photos(folder, CLASSES, SIZE, [part], first=0) for part in ("train", "test"))
    data: dict[str, Any] = {"train": Photos(train, 8, augment=True, flip=True), "test": Photos(test, 12)}
    return detection(whole, **data, labels=CLASSES, image_size=SIZE)


LESSON = {"epochs": 24, "learning_rate": 0.02}
"""How the network is trained."""


def task() -> Task:
    return trained_task(__file__, network, make_task, LESSON, epochs=8, learning_rate=0.01, distillation=0.5)
