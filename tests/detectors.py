"""Small detectors of torchvision's kinds, and pictures of coloured squares."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.ops import MultiScaleRoIAlign

SIZE = 64
KINDS = ("SSD", "RetinaNet", "FCOS", "FasterRCNN")
LABELS = ("red", "green", "blue")


def convolution(width_in: int, width: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width_in, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())


class Backbone(nn.Module):
    """Feature maps of 8 x 8 and 4 x 4 from pictures of 64 x 64."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Sequential(convolution(3, 12, 2), convolution(12, 16, 2), convolution(16, width, 2))
        self.second = convolution(width, width, 2)
        self.out_channels: Any = width

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        first = self.first(images)
        return {"0": first, "1": self.second(first)}


def detector(kind: str) -> nn.Module:
    """Of four classes, the background among them, with seeded weights, in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone, sizes = Backbone(32 if kind in ("FCOS", "RetinaNet") else 16), {"min_size": SIZE, "max_size": SIZE}
        anchors = AnchorGenerator(((16,), (32,)), ((0.5, 1.0, 2.0),) * 2)
        if kind == "SSD":
            backbone.out_channels = [16, 16]
            boxes = DefaultBoxGenerator([[2], [2]], scales=[0.2, 0.4, 0.6])
            made: nn.Module = SSD(backbone, boxes, (SIZE, SIZE), 4, score_thresh=0.01)
        elif kind == "RetinaNet":
            made = RetinaNet(backbone, 4, **sizes, anchor_generator=anchors, score_thresh=0.005)
        elif kind == "FCOS":
            made = FCOS(backbone, 4, **sizes, anchor_generator=AnchorGenerator(((8,), (16,)), ((1.0,),) * 2), score_thresh=0.01)
        else:
            pool = MultiScaleRoIAlign(["0", "1"], 4, 2)
            few = {"rpn_pre_nms_top_n_test": 50, "rpn_post_nms_top_n_test": 20}
            made = FasterRCNN(backbone, 4, **sizes, rpn_anchor_generator=anchors, box_roi_pool=pool, **few)
        return made.eval()


def squares(count: int, seed: int) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Pictures of noise with a red, green or blue square each (labels 1, 2, 3); every fifth is without one."""
    generator = torch.Generator().manual_seed(seed)
    images, targets = torch.rand(count, 3, SIZE, SIZE, generator=generator) / 2, []
    for image, number in zip(images, range(count), strict=True):
        if number % 5 == 4:
            targets.append({"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long()})
            continue
        x, y = torch.randint(0, 40, (2,), generator=generator).tolist()
        image[:, y : y + 20, x : x + 20] = torch.eye(3)[number % 3][:, None, None]
        targets.append({"boxes": torch.tensor([[x, y, x + 20, y + 20]]).float(), "labels": torch.tensor([1 + number % 3])})
    return images, targets
