"""Handwritten digits (MNIST): a LightningModule and its data as they are, trained here by Lightning in half a minute."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as lightning
import torch
from _mnist import digits
from torch import Tensor, nn

from edgeprune.task import Task
from edgeprune.tasks import from_lightning


class Digits(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Conv2d(1, 16, 3, 2), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, 2), nn.BatchNorm2d(32), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(1152, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)

    def training_step(self, batch: Any, index: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, index: int) -> None:
        self.log("val_acc", 100 * (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters())


def task() -> Task:
    lightning.seed_everything(0, verbose=False)
    module, data = Digits(), lightning.LightningDataModule.from_datasets(digits(range(5)), digits(range(20, 21)), batch_size=64)
    lightning.Trainer(max_epochs=1, barebones=True, accelerator="cpu").fit(module, data)
    return from_lightning(module.eval(), data, monitor="val_acc", mode="max", epochs=1, metric_unit="%")
