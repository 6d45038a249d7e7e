"""MobileNetV2 at half width for the 32 x 32 images of CIFAR-10, trained here: 23 million multiplications an image.

The first use trains it, which takes about a quarter of an hour on one core with bfloat16 instructions; ``_trained.py`` keeps it.
"""

from __future__ import annotations

from _cifar10 import make_task, pretrained
from _trained import trained_task
from torch import Tensor, nn
from torch.nn import functional as F

from edgeprune.task import Task

WIDTH = 0.5
# expansion, channels, blocks, stride: Sandler et al., "MobileNetV2", 2018, table 2, with the second halving of the image left out
STAGES = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 1), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]


class Depthwise(nn.Conv2d):
    """A 3 x 3 convolution of each channel by itself.

    With stride 2 it trains as every second pixel of one with stride 1, which is the same: the CPU's gradient of that is five times faster.
    """

    def __init__(self, width: int, stride: int) -> None:
        super().__init__(width, width, 3, stride, padding=1, groups=width, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training and self.stride == (2, 2):
            return F.conv2d(inputs, self.weight, None, 1, 1, 1, self.groups)[:, :, ::2, ::2]
        return super().forward(inputs)


class InvertedResidual(nn.Module):
    """Widened by a 1 x 1 convolution, filtered, and narrowed again without activation; what came in is added where shapes agree."""

    def __init__(self, width_in: int, width: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = width_in * expansion
        self.adds = stride == 1 and width_in == width
        self.layers = nn.Sequential(
            *(convolution(width_in, hidden, 1) if expansion > 1 else ()),
            Depthwise(hidden, stride),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            nn.Conv2d(hidden, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + self.layers(inputs) if self.adds else self.layers(inputs)


def convolution(width_in: int, width: int, window: int) -> nn.Sequential:
    """A convolution with batch norm and ReLU6."""
    return nn.Sequential(nn.Conv2d(width_in, width, window, padding=window // 2, bias=False), nn.BatchNorm2d(width), nn.ReLU6())


def network() -> nn.Sequential:
    """Images of 3 x 32 x 32 in, scores of 10 classes out."""
    width = 16
    blocks: list[nn.Module] = []
    for expansion, channels, count, stride in STAGES:
        wanted = round(channels * WIDTH / 8 + 0.01) * 8  # a multiple of 8, 12 channels being 16
        for index in range(count):
            blocks.append(InvertedResidual(width, wanted, expansion, stride if index == 0 else 1))
            width = wanted
    return nn.Sequential(
        convolution(3, 16, 3), *blocks, convolution(width, 1280, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 10)
    )


LESSON = {"epochs": 13, "learning_rate": 0.2, "distillation": 0.8}
"""How the network is trained: 13 passes, the answers of ResNet-20 counting more than the labels."""


def task() -> Task:
    return trained_task(__file__, network, make_task, LESSON, pretrained(20), epochs=4, learning_rate=0.05, distillation=0.9)
