"""One training step of the dense model without its effects: what would fail while training fails before anything is measured."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from edgeprune.errors import EdgepruneError, TrainingError
from edgeprune.graph.twin import twin
from edgeprune.task import Task, as_inputs
from edgeprune.tuning.context import seeded


def rehearse(task: Task) -> None:
    """Run a twin of the task's model in training on one batch, and its loss.  Raises :class:`TrainingError` when either raises."""
    if task.train is None or task.fit is not None:
        return
    with seeded(0), torch.enable_grad():
        first = next(task.batches("train"), None)
        if first is None:
            return
        try:
            outputs = twin(task.model).train()(*as_inputs(first[0]))
        except Exception as error:
            raise TrainingError(
                f"{task.name} does not run in training on its first training batch: {type(error).__name__}: {error}",
                remedy="Check that the training batches fit the model: model.train()(*inputs) is what training calls.",
            ) from error
        loss_of(task, outputs, first[1], "in training")


def loss_of(task: Task, outputs: Any, targets: Any, when: str) -> Tensor:
    """``task.loss``.  Raises :class:`TrainingError` that names what it was given when it raises."""
    try:
        loss = task.loss(outputs, targets)
    except EdgepruneError:
        raise
    except Exception as error:
        several = not isinstance(outputs, Tensor)
        raise TrainingError(
            f"the loss of {task.name} raised {type(error).__name__} on what the model returns {when}, {_described(outputs)}: {error}",
            remedy="Give the task a loss that takes all of these outputs." if several else "Check task.loss and the training targets.",
        ) from error
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise TrainingError(
            f"the loss of {task.name} is {_described(loss)}, not a tensor of one number", remedy="Let task.loss return a mean."
        )
    return loss


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)}"
    names = f" ({', '.join(map(str, value))})" if isinstance(value, dict) else f" of {len(value)}" if hasattr(value, "__len__") else ""
    return f"a {type(value).__name__}{names}"
