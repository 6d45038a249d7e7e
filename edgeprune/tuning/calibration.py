"""How far a model is from its teacher, on batches that are given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from edgeprune.task import Batches, Task
from edgeprune.tuning.context import as_float32, autocast, is_image, native_bf16, preserved_modes
from edgeprune.tuning.distill import distillation_loss
from edgeprune.tuning.layout import batch_inputs


def outputs_on(model: nn.Module, batches: Batches) -> list[Any]:
    """The model's outputs on every batch, in evaluation mode, without gradients; images in bfloat16 where the CPU has it."""
    found = []
    with preserved_modes(model), torch.no_grad():
        model.eval()
        for inputs, _ in batches:
            arguments = batch_inputs(model, inputs)
            with autocast(native_bf16() and any(is_image(value) for value in arguments)):
                found.append(as_float32(model(*arguments)))
    return found


def mean_divergence(model: nn.Module, task: Task, batches: Sequence[tuple[Any, Any]], wanted: Sequence[Any]) -> float:
    """Mean divergence of the model's answers from ``wanted``, the teacher's on the same batches; where answers cannot be compared,
    mean ``task.loss``."""
    values = []
    for outputs, answer, (_, targets) in zip(outputs_on(model, batches), wanted, batches, strict=True):
        divergence = distillation_loss(outputs, answer, targets)
        values.append(float(divergence if divergence is not None else task.loss_of(outputs, targets, "in an evaluation")))
    return math.fsum(values) / len(values)
