"""What removing channels really changes, on training batches that no criterion has seen."""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from edgeprune.batches import Batch
from edgeprune.errors import TrainingError
from edgeprune.execute import Send, Shared
from edgeprune.graph import Analysis, analyze
from edgeprune.graph.capture import eval_mode
from edgeprune.importance.data import SAMPLES, captured_size, pieces
from edgeprune.placement import to_cpu
from edgeprune.surgery import Plan, masked
from edgeprune.task import Task
from edgeprune.tuning import recalibrate
from edgeprune.tuning.distill import answers_apart
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


@dataclass(frozen=True)
class Samples:
    """Batches that effects are ``measured`` on, and those for ``calibration`` before."""

    measured: list[Batch]
    calibration: list[Batch]

    @classmethod
    def of(cls, task: Task, analysis: Analysis, images: int) -> Samples:
        """``images`` training samples, at least, from behind those that criteria look at (the last ones where there are not so many), and
        half as many before them."""
        later = _last(pieces(task, captured_size(analysis) or PIECE, SAMPLES + images + images // 2), images + images // 2)
        measured = _last(later, images)
        return cls(measured, later[: -len(measured)] or later)


class Removals:
    """Measures plans on ``samples`` by masking."""

    def __init__(self, task: Task, analysis: Analysis, samples: Samples) -> None:
        self.task, self.analysis, self.samples = task, analysis, samples
        self.measured, self.calibration = samples.measured, samples.calibration
        self.images = _count(self.measured)
        self.answers = self._run(task.model)
        self._known = dict[str, Removal]()
        self.dense = self._both(copy.deepcopy(task.model))

    @classmethod
    def of(cls, task: Task, analysis: Analysis, images: int) -> Removals:
        """On the samples that :meth:`Samples.of` takes."""
        return cls(task, analysis, Samples.of(task, analysis, images))

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
                divergence = answers_apart(self.task, outputs, wanted, batch.targets)
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


def measure_apart(given: Shared[tuple[Task, Samples]], plans: Sequence[Plan], send: Send) -> list[Removal]:
    """What a worker measures of ``plans``.  Sends the number of each as soon as it is done."""
    task, samples = given.get()
    removals, found = Removals(task, analyze(task.model, task.example_inputs, tuple(task.protect), task.attention), samples), []
    for number, plan in enumerate(plans):
        found.append(removals.measure(plan))
        send(number)
    return found


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
