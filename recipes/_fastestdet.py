"""FastestDet: ShuffleNetV2, pooled pyramid, one head at stride 16.  Source: https://github.com/dog-qiuqiu/FastestDet, BSD-3-Clause."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIDE, STRIDE = 352, 16
CLASSES = (
    "person bicycle car motorcycle airplane bus train truck boat traffic_light fire_hydrant stop_sign parking_meter bench bird cat dog "
    "horse sheep cow elephant bear zebra giraffe backpack umbrella handbag tie suitcase frisbee skis snowboard sports_ball kite "
    "baseball_bat baseball_glove skateboard surfboard tennis_racket bottle wine_glass cup fork knife spoon bowl banana apple sandwich "
    "orange broccoli carrot hot_dog pizza donut cake chair couch potted_plant bed dining_table toilet tv laptop mouse remote keyboard "
    "cell_phone microwave oven toaster sink refrigerator book clock vase scissors teddy_bear hair_drier toothbrush "
)
COCO = CLASSES.split()


def pointwise(width_in: int, width: int, relu: bool = True) -> list[nn.Module]:
    """A 1 x 1 convolution with batch norm."""
    return [nn.Conv2d(width_in, width, 1, bias=False), nn.BatchNorm2d(width), *([nn.ReLU()] if relu else [])]


def depthwise(width: int, window: int, stride: int = 1, relu: bool = True) -> list[nn.Module]:
    """A convolution of each channel by itself with batch norm."""
    layers = [nn.Conv2d(width, width, window, stride, window // 2, groups=width, bias=False), nn.BatchNorm2d(width)]
    return [*layers, *([nn.ReLU()] if relu else [])]


class Block(nn.Module):
    """Ma et al., "ShuffleNet V2", 2018, figure 3: half of the channels pass; at stride 2 all are filtered on both sides."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.halves = stride == 1
        before = width_in // 2 if self.halves else width_in
        half = width // 2
        self.branch_main = nn.Sequential(*pointwise(before, half), *depthwise(half, 3, stride, False), *pointwise(half, width - before))
        if not self.halves:
            self.branch_proj = nn.Sequential(*depthwise(before, 3, stride, False), *pointwise(before, before))

    def forward(self, inputs: Tensor) -> Tensor:
        if self.halves:
            return torch.cat([inputs[:, 0::2], self.branch_main(inputs[:, 1::2])], 1)
        return torch.cat([self.branch_proj(inputs), self.branch_main(inputs)], 1)


class Backbone(nn.Module):
    """ShuffleNetV2 without its last convolution: maps of an eighth, a sixteenth and a thirty-second of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.first_conv = nn.Sequential(nn.Conv2d(3, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU())
        for name, width_in, width, count in (("stage2", 24, 48, 4), ("stage3", 48, 96, 8), ("stage4", 96, 192, 4)):
            self.add_module(name, nn.Sequential(Block(width_in, width, 2), *(Block(width, width, 1) for _ in range(count - 1))))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        first = self.stage2(F.max_pool2d(self.first_conv(images), 3, 2, 1))
        second = self.stage3(first)
        return first, second, self.stage4(second)


class Conv1x1(nn.Module):
    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.conv1x1 = nn.Sequential(*pointwise(width_in, width))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.conv1x1(inputs)


class SPP(nn.Module):
    """One, two and three 5 x 5 filters side by side."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.Conv1x1 = Conv1x1(width_in, width)
        self.S1, self.S2, self.S3 = (nn.Sequential(*(layer for _ in range(n) for layer in depthwise(width, 5))) for n in (1, 2, 3))
        self.output = nn.Sequential(*pointwise(3 * width, width, False))

    def forward(self, inputs: Tensor) -> Tensor:
        inputs = self.Conv1x1(inputs)
        return F.relu(inputs + self.output(torch.cat([self.S1(inputs), self.S2(inputs), self.S3(inputs)], 1)))


class Layers(nn.Module):
    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.conv5x5 = nn.Sequential(*depthwise(width_in, 5), *pointwise(width_in, width, False))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.conv5x5(inputs)


class Head(nn.Module):
    """Objects, boxes and classes of every place."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.conv1x1 = Conv1x1(width, width)
        self.obj_layers, self.reg_layers, self.cls_layers = Layers(width, 1), Layers(width, 4), Layers(width, classes)

    def forward(self, inputs: Tensor) -> list[Tensor]:
        inputs = self.conv1x1(inputs)
        return [layers(inputs).flatten(2).transpose(1, 2) for layers in (self.obj_layers, self.reg_layers, self.cls_layers)]


class FastestDet(nn.Module):
    """BGR images (N, 3, 352, 352) of 0 to 1 in; "objects" (N, 484, 1), "boxes" (N, 484, 4) in pixels, class "logits" (N, 484, 80) out."""

    def __init__(self, classes: int = 80) -> None:
        super().__init__()
        self.backbone, self.SPP, self.detect_head = Backbone(), SPP(336, 96), Head(96, classes)
        side = torch.arange(SIDE // STRIDE)
        places = torch.stack(torch.meshgrid(side, side, indexing="xy"), -1).reshape(1, -1, 2).float()
        self.register_buffer("places", places, persistent=False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        first, second, third = self.backbone(images)
        third = F.interpolate(third, scale_factor=2.0, mode="nearest")
        objects, numbers, logits = self.detect_head(self.SPP(torch.cat([F.avg_pool2d(first, 3, 2, 1), second, third], 1)))
        centres = (numbers[..., :2].tanh() + self.places) * STRIDE
        half = numbers[..., 2:].sigmoid() * (SIDE / 2)
        return {"objects": objects, "boxes": torch.cat([centres - half, centres + half], -1), "logits": logits}


def scores(outputs: Mapping[str, Tensor]) -> Tensor:
    """Of every class at every place, (N, 484, 80): its share and the chance of an object, as FastestDet weighs them."""
    return outputs["objects"].sigmoid() ** 0.6 * outputs["logits"].softmax(-1) ** 0.4
