"""One optimizer step after another: the loss, its gradient, the learning rate."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from edgeprune.batches import Batch
from edgeprune.errors import EdgepruneError, TrainingError
from edgeprune.task import Task
from edgeprune.tuning.context import as_float32, autocast, native_bf16
from edgeprune.tuning.distill import distillation_loss
from edgeprune.tuning.layout import laid_out

MOMENTUM = 0.9
WARMUP = 0.05  # the part of all steps over which the learning rate rises
CLIP_NORM = 5.0  # of the gradient of all parameters together


class Trainer:
    """Trains ``model`` for ``total`` steps, ``length`` an epoch, on ``task``; ``images`` says that its inputs are, and train in bfloat16
    where the CPU has it."""

    def __init__(self, model: nn.Module, task: Task, teacher: nn.Module | None, total: int, images: bool, length: int) -> None:
        self.model, self.task, self.total, self.length = model, task, total, length
        self.bf16 = images and native_bf16()
        self.teacher = _frozen_copy(teacher) if teacher is not None and task.distillation > 0 else None
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        # biases, norms and other vectors do not decay: He et al., "Bag of Tricks for Image Classification", 2019, section 3.1
        groups = [
            {"params": [value for value in self.parameters if value.dim() > 1], "weight_decay": task.weight_decay},
            {"params": [value for value in self.parameters if value.dim() <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.SGD(groups, lr=task.learning_rate, momentum=MOMENTUM, nesterov=True)

    def step(self, batch: Batch, step: int, epoch: int = 0) -> float:
        """One step on one batch; ``step`` and ``epoch`` count from 0. Returns the loss.  Raises :class:`TrainingError` when not finite."""
        rate = learning_rate(step, self.total, self.task.learning_rate)
        try:
            loss = self._loss(batch, step)
            value, norm = float(loss.item()), 0.0
            if math.isfinite(value):
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                norm = torch.nn.utils.clip_grad_norm_(self.parameters, CLIP_NORM).item()
        except EdgepruneError:
            raise
        except Exception as error:
            raise TrainingError(
                f"training {self.task.name} raised {type(error).__name__} at step {step + 1}: {error}",
                remedy="Check that the training batches fit the model, and that task.loss takes its outputs and the targets.",
            ) from error
        for what, number in (("loss", value), ("gradient", norm)):
            if not math.isfinite(number):
                where = f"step {step + 1} of {self.total} (epoch {epoch + 1}, learning rate {rate:.3g})"
                raise TrainingError(
                    f"the {what} of {self.task.name} became {number} at {where}",
                    remedy="Lower the task's learning_rate, or look for such values in the training data and the loss.",
                )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        return value

    def _loss(self, batch: Batch, step: int) -> Tensor:
        with autocast(self.bf16):
            outputs = laid_out(self.model, batch, training=True).call(self.model, loss=True)
        outputs = as_float32(outputs)
        loss = self.task.loss_of(outputs, batch.targets, f"in training at step {step + 1}")
        if self.teacher is None:
            return loss
        with torch.no_grad(), autocast(self.bf16):
            wanted = laid_out(self.teacher, batch).call(self.teacher)
        distance = distillation_loss(outputs, as_float32(wanted), batch.targets)
        strength = self.task.distillation
        return loss if distance is None else (1 - strength) * loss + strength * distance


def learning_rate(step: int, total: int, peak: float) -> float:
    """The rate of ``step`` (from 0): linear warm-up, then a half cosine to zero (Loshchilov & Hutter, "SGDR", 2017)."""
    warmup = math.ceil(WARMUP * total)
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def _frozen_copy(teacher: nn.Module) -> nn.Module:
    """A copy in evaluation mode and without gradients."""
    return copy.deepcopy(teacher).eval().requires_grad_(False)
