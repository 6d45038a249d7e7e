"""Making a model sparse little by little, while it is trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from torch import Tensor, nn

from edgeprune.importance.unstructured import Masks, Scope, apply_masks, quantile_masks, sparse_parameters, sparsity_of
from edgeprune.task import Task
from edgeprune.tuning.finetune import EpochCallback, ProgressCallback, TuneResult, Tuning, finetune, tune
from edgeprune.tuning.frozen import trains, unfreeze
from edgeprune.tuning.scoring import score

RAMP: Final = 0.6
"""The part of all steps over which the sparsity rises; the rest are for what is left to recover."""

UPDATES: Final = 50
"""How often the smallest weights are chosen again while the sparsity grows."""


@dataclass(frozen=True)
class SparseResult:
    """``sparsity``: the share of zeros reached over all chosen weights, ``layers``: in each. ``tuned``: what the training did."""

    sparsity: float
    layers: dict[str, float]
    tuned: TuneResult


def sparsify(
    model: nn.Module,
    task: Task,
    sparsity: float,
    *,
    scope: Scope = "layer",
    block: int = 1,
    linear: bool = True,
    teacher: nn.Module | None = None,
    epochs: float | None = None,
    on_progress: ProgressCallback | None = None,
    on_epoch: EpochCallback | None = None,
    checkpoint: Path | None = None,
    seed: int = 0,
) -> SparseResult:
    """Train ``model`` in place as :func:`edgeprune.tuning.finetune` does, and make the share ``sparsity`` of the weights of its 1x1
    convolutions (and, with ``linear``, its linear layers) zero on the way.

    The sparsity rises as ``sparsity * (1 - (1 - t)^3)`` over the first 60 % of the steps; the smallest weights go, see
    :func:`quantile_masks` for ``scope`` and ``block``, and what is gone, or was zero at the start, is held at exactly zero after every
    step. Where nothing is trained (no epochs, or ``task.fit`` does it) all goes at once, before. A pruned model can be made sparse as
    well. Without training data, weights only go.

    ``on_progress``, ``on_epoch``, ``checkpoint``: as in ``finetune``; a call that finds it continues there and ends with the same weights.
    Source: Zhu & Gupta, "To prune, or not to prune", 2017, section 3 (the cubic schedule).

    Raises :class:`InputError` when the model has no such layer or an option is unknown, and what ``finetune`` raises.
    """
    parameters = sparse_parameters(model, linear)
    schedule = _Schedule(parameters, sparsity, scope, block)
    job = replace(task, name=f"{task.name} ({100 * sparsity:g} % sparse, {scope}, blocks of {block}{', linear too' if linear else ''})")
    if task.unfreeze:
        unfreeze(model, parameters)
    if task.fit is not None or task.train is None or task.epochs_of(epochs) == 0 or not trains(model):
        tuned = _at_once(model, job, schedule, checkpoint, seed)
    else:
        with _watched(model, schedule):
            tuned = tune(Tuning(model, job, teacher, epochs, checkpoint, seed, schedule.step), on_progress, on_epoch)
    return SparseResult(sparsity_of(parameters), {name: sparsity_of({name: value}) for name, value in parameters.items()}, tuned)


class _Schedule:
    """The masks during training.  Bad options are refused when it is made."""

    def __init__(self, parameters: Mapping[str, Tensor], sparsity: float, scope: Scope, block: int) -> None:
        self.parameters, self.sparsity, self.scope, self.block = parameters, sparsity, scope, block
        self.masks: Masks = quantile_masks(parameters, sparsity, scope, block)
        self.begin()

    def begin(self) -> None:
        """What is zero now stays so: nothing at the start, or the zeros of an interrupted training."""
        self.masks = self.first = {name: parameter.detach() != 0 for name, parameter in self.parameters.items()}

    def choose(self, sparsity: float) -> None:
        """Take the smallest weights away, up to ``sparsity``."""
        chosen = quantile_masks(self.parameters, sparsity, self.scope, self.block)
        self.masks = {name: mask & self.first[name] for name, mask in chosen.items()}
        apply_masks(self.parameters, self.masks)

    def step(self, done: int, total: int) -> None:
        """After ``done`` of ``total`` optimizer steps."""
        apply_masks(self.parameters, self.masks)
        ramp = max(1, math.ceil(RAMP * total))
        if done <= ramp and (done % max(1, ramp // UPDATES) == 0 or done == ramp):
            self.choose(self.sparsity * (1.0 - (1.0 - done / ramp) ** 3))


@contextmanager
def _watched(model: nn.Module, schedule: _Schedule) -> Iterator[None]:
    """Tell the schedule when the model first runs: its weights are then those that training starts or continues with."""

    def first(*_: Any) -> None:
        handle.remove()
        schedule.begin()

    handle = model.register_forward_pre_hook(first)
    try:
        yield
    finally:
        handle.remove()


def _at_once(model: nn.Module, job: Task, schedule: _Schedule, checkpoint: Path | None, seed: int) -> TuneResult:
    """All that goes, before what training there is; the gradients of what is gone are zero then."""
    before = score(model, job) if job.scores else None
    schedule.choose(schedule.sparsity)
    if job.fit is None and job.train is None:
        return TuneResult(before, score(model, job) if job.scores else None, 0)
    masks = schedule.masks
    trained = {name: parameter for name, parameter in schedule.parameters.items() if parameter.requires_grad}
    handles = [parameter.register_hook(_masked(masks[name])) for name, parameter in trained.items()]  # type: ignore[no-untyped-call]
    try:
        tuned = finetune(model, job, epochs=0.0, checkpoint=checkpoint, seed=seed)
    finally:
        for handle in handles:
            handle.remove()
    apply_masks(schedule.parameters, masks)
    return replace(tuned, before=before)


def _masked(mask: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda gradient: gradient * mask.to(gradient.device)
