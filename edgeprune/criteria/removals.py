"""What removing channels really changes, on training batches that no criterion has seen."""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from edgeprune.batches import Batch
from edgeprune.errors import TrainingError
from edgeprune.graph import Analysis
from edgeprune.graph.capture import eval_mode
from edgeprune.importance.data import SAMPLES, captured_size, pieces
from edgeprune.placement import to_cpu
from edgeprune.surgery import Plan, masked
from edgeprune.task import Task
from edgeprune.tuning import recalibrate
from edgeprune.tuning.distill import distillation_loss
from edgeprune.tuning.layout import laid_out

PIECE = 64
"""Samples that are run at once."""


@dataclass(frozen=True)
class Effect:
    """Of a changed model: its mean loss, and the mean divergence of its answers from the dense model's (the loss where answers cannot be
    compared)."""

    loss: float
    divergence: float


@dataclass(frozen=True)
class Removal:
    """``plain``: the effect as it is; ``recalibrated``: after batch-norm statistics were measured again."""

    plain: Effect
    recalibrated: Effect


class Removals:
    """Measures plans by masking.

    ``images``: how many training samples, at least, the effect is measured on, from behind those that criteria look at (the last ones
    where there are not so many); half as many before them serve recalibration.
    """

    def __init__(self, task: Task, analysis: Analysis, images: int) -> None:
        self.task, self.analysis = task, analysis
        later = _last(pieces(task, captured_size(analysis) or PIECE, SAMPLES + images + images // 2), images + images // 2)
        self.measured = _last(later, images)
        self.calibration = later[: -len(self.measured)] or later
        self.images = _count(self.measured)
        self.answers = self._run(task.model)
        self._known = dict[str, Removal]()
        self.dense = self._both(copy.deepcopy(task.model))

    def measure(self, plan: Plan) -> Removal:
        """The effect of what ``plan`` removes.  Raises :class:`TrainingError` when the loss is not a number."""
        key = plan.to_json()  # criteria often agree
        if key not in self._known:
            self._known[key] = self._both(masked(self.task.model, self.analysis, plan))
        return self._known[key]

    def _both(self, model: nn.Module) -> Removal:
        plain = self._effect(model)
        with self.task.on_device(model):
            again = recalibrate(model, self.calibration)
        return Removal(plain, self._effect(model) if again else plain)

    def _effect(self, model: nn.Module) -> Effect:
        losses, divergences, sizes = list[float](), list[float](), list[int]()
        with torch.no_grad():
            for outputs, wanted, batch in zip(self._run(model, loss=True), self.answers, self.measured, strict=True):
                losses.append(float(self.task.loss_of(outputs, batch.targets, "in an evaluation")))
                divergence = distillation_loss(outputs, wanted, batch.targets)
                divergences.append(losses[-1] if divergence is None else float(divergence))
                sizes.append(batch.size)
        effect = Effect(float(np.average(losses, weights=sizes)), float(np.average(divergences, weights=sizes)))
        if not (math.isfinite(effect.loss) and math.isfinite(effect.divergence)):
            raise TrainingError(f"the loss on training data is {effect.loss}", remedy="Check the data and the model's weights.")
        return effect

    def _run(self, model: nn.Module, loss: bool = False) -> list[Any]:
        """The outputs on all measured pieces, in float32: the smallest removals change less than bfloat16 resolves."""
        with self.task.on_device(model), eval_mode(model), torch.no_grad():
            return [to_cpu(laid_out(model, batch).call(model, loss)) for batch in self.measured]


def _last(batches: Iterable[Batch], samples: int) -> list[Batch]:
    """The last of ``batches`` that hold ``samples``."""
    kept = deque[Batch]()
    for batch in batches:
        kept.append(batch)
        while _count(kept) - kept[0].size >= samples:
            kept.popleft()
    return list(kept)


def _count(batches: Iterable[Batch]) -> int:
    return sum(batch.size for batch in batches)
