"""ResNet-56 on CIFAR-10, pretrained. The data is found through EDGEPRUNE_DATA: see ``_cifar10.py`` beside this file."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from edgeprune.task import Task

_spec = importlib.util.spec_from_file_location("edgeprune_recipes_cifar10", Path(__file__).with_name("_cifar10.py"))
assert _spec is not None
assert _spec.loader is not None
_cifar10 = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_cifar10)


def task() -> Task:
    return _cifar10.cifar10_task(56)
