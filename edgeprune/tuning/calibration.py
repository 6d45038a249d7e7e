"""How far a model is from its teacher, on batches that are given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from edgeprune.batches import as_batch, tensors_of
from edgeprune.placement import CPU, device_of, to_device
from edgeprune.task import Batches, Task
from edgeprune.tuning.context import as_float32, autocast, is_image, preserved_modes, reduced_precision
from edgeprune.tuning.distill import answers_apart
from edgeprune.tuning.layout import laid_out


def outputs_on(model: nn.Module, batches: Batches, loss: bool = False) -> list[Any]:
    """The model's outputs on every batch, in evaluation mode, without gradients; images in bfloat16 where the CPU has it.  ``loss``: with
    the loss, of a model that computes its own."""
    found, device = [], device_of(model)
    with preserved_modes(model), torch.no_grad():
        model.eval()
        for given in batches:
            batch = laid_out(model, as_batch(given))
            with autocast(reduced_precision(device, any(map(is_image, batch.leaves))), device):
                found.append(as_float32(batch.call(model, loss)))
    return found


def mean_divergence(model: nn.Module, task: Task, batches: Sequence[Any], wanted: Sequence[Any]) -> float:
    """Mean divergence of the model's answers from ``wanted``, the teacher's on the same batches; where answers cannot be compared,
    mean ``task.loss``."""
    taken = [as_batch(batch) for batch in batches]
    with task.on_device(model):
        return mean_distance(task, outputs_on(model, taken, loss=True), wanted, taken)


def mean_distance(task: Task, outputs: Sequence[Any], wanted: Sequence[Any], batches: Sequence[Any]) -> float:
    """:func:`mean_divergence` of ``outputs`` that a model gave on the batches."""
    values = []
    for given, answer, batch in zip(outputs, wanted, batches, strict=True):
        answer, targets = to_device((answer, as_batch(batch).targets), _place_of(given))
        divergence = answers_apart(task, given, answer, targets)
        values.append(float(divergence if divergence is not None else task.loss_of(given, targets, "in an evaluation")))
    return math.fsum(values) / len(values)


def comparable(task: Task, outputs: Any, batch: Any) -> bool:
    """Whether answers like ``outputs``, those on ``batch``, can be compared with each other."""
    return answers_apart(task, outputs, outputs, to_device(as_batch(batch).targets, _place_of(outputs))) is not None


def _place_of(outputs: Any) -> torch.device:
    return next((value.device for value in tensors_of(outputs)), CPU)
