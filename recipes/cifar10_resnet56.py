"""ResNet-56 on CIFAR-10, pretrained: see ``_cifar10.py`` beside this file."""

from __future__ import annotations

from _cifar10 import cifar10_task

from edgeprune.task import Task


def task() -> Task:
    return cifar10_task(56)
