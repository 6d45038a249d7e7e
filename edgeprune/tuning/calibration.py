"""How far a model is from its teacher, on batches that are given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from edgeprune.batches import as_batch
from edgeprune.placement import device_of, to_device
from edgeprune.task import Batches, Task
from edgeprune.tuning.context import as_float32, autocast, is_image, preserved_modes, reduced_precision
from edgeprune.tuning.distill import distillation_loss
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
    values = []
    taken = [as_batch(batch) for batch in batches]
    with task.on_device(model) as device:
        for outputs, answer, batch in zip(outputs_on(model, taken, loss=True), wanted, taken, strict=True):
            answer, targets = to_device((answer, batch.targets), device)
            divergence = distillation_loss(outputs, answer, targets)
            values.append(float(divergence if divergence is not None else task.loss_of(outputs, targets, "in an evaluation")))
    return math.fsum(values) / len(values)
