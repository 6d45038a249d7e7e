"""CIFAR-10 and its small ResNets, for the recipes beside this file.

Data are read from the data folder (``data_folder`` of ``_data.py``): ``cifar-10-batches-py/`` as its authors and torchvision unpack it
(https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz), or ``cifar10/batch_<n>.png`` of 1000 images each, one row of 32 x 32 RGB pixels
an image, and ``cifar10/labels.json`` with ``{"labels": [...]}``: image ``i`` of batch ``n`` is image ``1000 * n + i`` of the original,
training before test. Batches 0 to 24 are trained on, 50 is scored on. Weights are ``weights/resnet<depth>-*.th`` of
https://github.com/akamaster/pytorch_resnet_cifar10: a ``state_dict`` saved under the key ``state_dict`` with names prefixed by ``module.``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from _data import ImageBatches, data_folder, data_set, no_file
from _originals import cifar
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from edgeprune.errors import RecipeError
from edgeprune.task import Task

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ORIGINAL = "cifar-10-batches-py"
LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class Shortcut(nn.Module):
    """Option A of He et al., "Deep Residual Learning", 2016: every second pixel, and zeros for the channels that are new."""

    def __init__(self, added: int) -> None:
        super().__init__()
        self.added = added

    def forward(self, inputs: Tensor) -> Tensor:
        return F.pad(inputs[:, :, ::2, ::2], (0, 0, 0, 0, self.added // 2, self.added // 2))


class Block(nn.Module):
    """Two 3 x 3 convolutions and a shortcut around them."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Identity() if width == width_in else Shortcut(width - width_in)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = F.relu(self.bn1(self.conv1(inputs)))
        return F.relu(self.bn2(self.conv2(hidden)) + self.shortcut(inputs))


class ResNet(nn.Module):
    """The CIFAR ResNet of ``depth`` = 6n + 2 layers: images of 3 x 32 x 32 in, scores of 10 classes out."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, 1, (depth - 2) // 6)
        self.layer2 = self._stage(16, 32, 2, (depth - 2) // 6)
        self.layer3 = self._stage(32, 64, 2, (depth - 2) // 6)
        self.linear = nn.Linear(64, 10)

    @staticmethod
    def _stage(width_in: int, width: int, stride: int, blocks: int) -> nn.Sequential:
        return nn.Sequential(Block(width_in, width, stride), *(Block(width, width, 1) for _ in range(blocks - 1)))

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(inputs))))))
        return self.linear(features.mean((2, 3)))


def pretrained(depth: int) -> nn.Module:
    """The trained ResNet of ``depth`` layers, in evaluation mode."""
    found = sorted(data_folder("weights").glob(f"weights/resnet{depth}-*.th"))
    if not found:
        raise no_file(data_folder() / f"weights/resnet{depth}-*.th")
    state = torch.load(found[0], weights_only=True, map_location="cpu")["state_dict"]
    model = ResNet(depth)
    model.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})
    return model.eval()


def images(batches: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The images of ``batches`` of 1000 as uint8 (N, 32, 32, 3) and their labels (N,)."""
    folder = data_set("cifar10", "cifar10", ORIGINAL, f"cifar10/{ORIGINAL}")
    original = folder if folder.name == ORIGINAL else folder / ORIGINAL
    if original.is_dir():
        pixels, labels = cifar(original)
        chosen = np.concatenate([np.arange(1000 * number, 1000 * (number + 1)) for number in batches])
        if chosen.max() >= len(labels):
            raise RecipeError(f"{original} holds {len(labels)} images, not 60,000", remedy="Unpack cifar-10-python.tar.gz again.")
        return torch.from_numpy(pixels[chosen]), torch.from_numpy(labels[chosen]).long()
    try:
        labels = np.asarray(json.loads((folder / "labels.json").read_text())["labels"])
        packed = [np.asarray(Image.open(folder / f"batch_{number}.png").convert("RGB")).reshape(1000, 32, 32, 3) for number in batches]
    except FileNotFoundError as error:
        raise no_file(error.filename) from error
    wanted = np.concatenate([labels[1000 * number : 1000 * (number + 1)] for number in batches])
    return torch.from_numpy(np.concatenate(packed)), torch.from_numpy(wanted).long()


def make_task(model: nn.Module, **settings: Any) -> Task:
    """Telling the ten classes apart, for any ``model`` of 3 x 32 x 32 inputs; ``settings`` of the fine-tuning."""
    train = ImageBatches(*images(range(25)), 128, MEAN, STD, augment=True, crop=4, flip=True, cutout=8)
    validation = ImageBatches(*images([50]), 250, MEAN, STD)
    preprocessing = {"input": "RGB image of 32 x 32 pixels, 0 to 255", "scale": 255, "mean": MEAN, "std": STD}
    inputs = (torch.zeros(1, 3, 32, 32),)
    return Task(model, inputs, train, validation, labels=LABELS, preprocessing=preprocessing, **settings)


def cifar10_task(depth: int) -> Task:
    """The ResNet of ``depth`` layers on 25,000 training images, scored on 1,000 test images.

    The network has memorised its training images, so that their labels teach little: the pruned one learns from the dense one's answers
    alone. Tried on ResNet-56 (92.6 %) with half of every block's inner channels, one seed each, two epochs at (distillation, rate);
    accuracy, whose standard error is 0.9, and divergence from the dense model on the test images: (0.5, 0.05) 90.3 %, 1.45;
    (0.9, 0.05) 91.0 %, 1.35; (0.9, 0.1) 89.0 %, 2.04; (1, 0.01) 91.4 %, 1.01; (1, 0.02) 91.6 %, 1.00. Three epochs of it: 91.8 %, 0.94,
    and without cutout 91.5 %, 1.13. Six epochs: 91.6 %, 0.78. Distillation and rate were not varied separately below a rate of 0.05.
    """
    return make_task(pretrained(depth), epochs=6, learning_rate=0.02, distillation=1.0)
