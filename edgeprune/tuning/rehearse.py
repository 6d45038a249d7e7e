"""One training step of the dense model without its effects: what would fail while training fails before anything is measured."""

from __future__ import annotations

import torch

from edgeprune.batches import Batch
from edgeprune.errors import TrainingError
from edgeprune.graph.twin import twin
from edgeprune.task import Task
from edgeprune.tuning.compiled import check_compile
from edgeprune.tuning.context import seeded


def first_batch(task: Task) -> Batch | None:
    """The first training batch, always the same; None where there is none, or the task trains by ``fit``."""
    if task.train is None or task.fit is not None:
        return None
    with seeded(0):
        return next(task.batches("train"), None)


def rehearse(task: Task, first: Batch | None) -> None:
    """Run a twin of the task's model in training on its first batch, and its loss.  Raises :class:`TrainingError` when either raises, and
    :class:`InputError` where training cannot be compiled as the task asks."""
    if first is None:
        return
    check_compile(task)
    with seeded(0), torch.enable_grad(), task.on_device(task.model) as device:
        first = first.to(device)
        try:
            outputs = first.call(twin(task.model).train(), loss=True)
        except Exception as error:
            raise TrainingError(
                f"{task.name} does not run in training on its first training batch: {type(error).__name__}: {error}",
                remedy="Check that the training batches fit the model: model.train()(*inputs) is what training calls.",
            ) from error
        task.loss_of(outputs, first.targets, "in training")
