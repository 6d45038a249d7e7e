"""The task's loss of a model as it stands, on batches that are given."""

from __future__ import annotations

import math

import torch
from torch import nn

from edgeprune.task import Batches, Task
from edgeprune.tuning.context import as_float32, autocast, batch_inputs, is_image, native_bf16, preserved_modes


def mean_loss(model: nn.Module, task: Task, batches: Batches) -> float:
    """Mean of ``task.loss`` over ``batches`` in evaluation mode, without gradients; images in bfloat16 where the CPU has it."""
    values = []
    with preserved_modes(model), torch.inference_mode():
        model.eval()
        for inputs, targets in batches:
            arguments = batch_inputs(inputs)
            with autocast(native_bf16() and any(is_image(value) for value in arguments)):
                outputs = model(*arguments)
            values.append(float(task.loss(as_float32(outputs), targets)))
    return math.fsum(values) / len(values)
