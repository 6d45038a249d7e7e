"""How far the answers really move when one group gets narrower: measured on calibration data, on the host only."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice

import numpy as np

from edgeprune.batches import Batch
from edgeprune.errors import TrainingError
from edgeprune.graph import Analysis, Group
from edgeprune.importance import Saliency
from edgeprune.placement import resolve
from edgeprune.search.plan.rerun import Trial, rerun_of
from edgeprune.surgery import masked, plan_from_saliency, reconstruct
from edgeprune.task import Task, no_batches
from edgeprune.tuning import mean_divergence, outputs_on, recalibrate
from edgeprune.tuning.allocator import kept_memory
from edgeprune.tuning.calibration import comparable, mean_distance
from edgeprune.tuning.context import seeded

PRIOR = 0.05
POINTS = 3
"""Widths tried for every group."""

SAMPLES, BATCHES = 256, 4
"""Training samples that answers are compared on, in at most so many batches; layers are solved on as many others."""

Growths = Callable[[Sequence[Trial], bool, Callable[[int, int], None] | None], list[float]]
"""By how much trials move the answers; with the layers solved again or not, and what is told of the progress."""

ImportanceCurves = dict[str, list[float]]
"""For every group, the value kept at each of its width choices: larger is better, at most 0 at the whole width."""


def importance_curves(
    task: Task,
    analysis: Analysis,
    saliency: Saliency,
    choices: Mapping[str, Sequence[int]],
    on_progress: Callable[[int, int], None] | None = None,
    *,
    reconstructed: bool = False,
    growths: Growths | None = None,
) -> ImportanceCurves:
    """For every group minus the divergence from the whole model at each of its widths, all other groups whole.

    The least salient channels are masked, and the answers on a few training batches compared with the whole model's (its loss taken where
    answers cannot be compared), both with the batch-norm statistics of these batches; widths in between are interpolated along the saliency
    that is lost. A penalty quadratic in the share removed, ``PRIOR`` of the mean divergence, settles ties and grows where many groups get
    narrow at once. ``reconstructed``: the layers that read a narrower group are solved again first
    (:func:`edgeprune.surgery.reconstruct`), on other batches. ``growths``: what tries them, :func:`growths_of` unless given.
    Source of the idea: Frantar & Alistarh, "SPDY", 2022 (the program's coefficients from calibration, a quadratic prior).
    """
    tried = {group.name: _widths_to_try(choices[group.name]) for group in analysis.groups}
    for block in analysis.blocks:  # the block as a whole counts once, with its first group
        if choices[block.groups[0]][0] == 0:
            tried[block.groups[0]].append(0)
    trials = []
    for group in analysis.groups:
        for width in tried[group.name]:
            together = analysis.block_of[group.name].groups if width == 0 else (group.name,)
            plan = plan_from_saliency(analysis, saliency, dict.fromkeys(together, width))
            trials.append(Trial(plan, tuple(group.readers) if reconstructed and width else ()))
    values = (growths or partial(growths_of, task, analysis))(trials, reconstructed, on_progress)
    measured, curves = iter(values), ImportanceCurves()
    for group in analysis.groups:
        growth = {choices[group.name][-1]: 0.0} | {width: next(measured) for width in tried[group.name]}
        dropped = growth.pop(0, 0.0)
        curves[group.name] = _curve(group, saliency[group.name], growth, choices[group.name]) if growth else [0.0]
        if choices[group.name][0] == 0:
            curves[group.name][0] = -dropped
    return _with_prior(curves, choices)


def growths_of(
    task: Task, analysis: Analysis, trials: Sequence[Trial], reconstructed: bool, on_progress: Callable[[int, int], None] | None = None
) -> list[float]:
    """By how much each of ``trials`` on ``task.model`` moves its answers."""
    batches, solving = _batches(task)
    values = [0.0] * len(trials)
    with kept_memory():
        for done, (number, value) in enumerate(_growths(task, analysis, trials, batches, solving if reconstructed else []), 1):
            values[number] = value
            if on_progress is not None:
                on_progress(done, len(trials))
    return values


def _batches(task: Task) -> tuple[list[Batch], list[Batch]]:
    """Batches to compare answers on, and others to solve layers on (the same where there are no more)."""
    assert task.train is not None
    with seeded(0):  # a shuffling loader gives the same ones each time
        given = list(islice(task.batches("train"), 2 * BATCHES))
    if not given:
        raise no_batches(task)
    compared = enough(given)
    return compared, enough(given[len(compared) :]) or compared


def enough(batches: list[Batch]) -> list[Batch]:
    """The first batches, at most ``BATCHES``, of ``SAMPLES`` samples where there are as many."""
    sizes = np.cumsum([batch.size for batch in batches[:BATCHES]])
    return batches[: 1 + int(np.searchsorted(sizes, SAMPLES))][:BATCHES]


def _growths(
    task: Task, analysis: Analysis, trials: Sequence[Trial], batches: list[Batch], solving: list[Batch]
) -> Iterator[tuple[int, float]]:
    """The number of every trial, and by how much answers move."""
    with task.on_device(task.model):
        rerun = rerun_of(task.model, analysis, batches, solving)
        if rerun is None or not (task.loss != "model" or comparable(task, rerun.teacher[0], batches[0])):
            yield from _one_by_one(task, analysis, trials, batches, solving)
            return
        base = _finite(mean_distance(task, rerun.teacher, rerun.teacher, batches))
        for number, outputs in rerun.outputs(trials):
            yield number, max(_finite(mean_distance(task, outputs, rerun.teacher, batches)) - base, 0.0)


def _one_by_one(
    task: Task, analysis: Analysis, trials: Sequence[Trial], batches: list[Batch], solving: list[Batch]
) -> Iterator[tuple[int, float]]:
    """The same with a copy of the model for every trial: slow, and for every kind of model."""
    whole = copy.deepcopy(task.model)
    with task.on_device(whole):
        recalibrate(whole, batches)
        teacher = outputs_on(whole, batches)
        base = _finite(mean_divergence(whole, task, batches, teacher))
    for number, trial in enumerate(trials):
        source = whole
        if trial.layers:
            source = reconstruct(whole, analysis, trial.plan, solving, resolve(task.device).device, trial.layers)
        candidate = masked(source, analysis, trial.plan)
        with task.on_device(candidate):
            recalibrate(candidate, batches)
            value = mean_divergence(candidate, task, batches, teacher)
        yield number, max(_finite(value) - base, 0.0)


def _finite(value: float) -> float:
    if not np.isfinite(value):
        raise TrainingError(f"the loss on calibration data is {value}", remedy="Check the data and the model's weights.")
    return value


def _with_prior(curves: ImportanceCurves, choices: Mapping[str, Sequence[int]]) -> ImportanceCurves:
    scale = PRIOR * float(np.mean([-min(curve) for curve in curves.values()]))
    return {
        name: [value - scale * (1.0 - width / max(choices[name][-1], 1)) ** 2 for value, width in zip(curve, choices[name], strict=True)]
        for name, curve in curves.items()
    }


def _widths_to_try(choices: Sequence[int]) -> list[int]:
    narrower = [width for width in choices[:-1] if width > 0]
    places = np.linspace(0, len(narrower) - 1, min(POINTS, len(narrower))).round().astype(int).tolist() if narrower else []
    return [narrower[place] for place in sorted(set(places))]


def _curve(group: Group, saliency: np.ndarray, growth: Mapping[int, float], choices: Sequence[int]) -> list[float]:
    """Interpolate the measured growth over the share of saliency removed, never falling as the width shrinks."""
    best = -np.sort(-saliency, axis=1)
    kept = np.concatenate([[0.0], np.cumsum(best.sum(0))])
    removed = 1.0 - kept / kept[-1] if kept[-1] > 0 else 1.0 - np.arange(group.size + 1) / group.size
    removed += 1e-3 * (1.0 - np.arange(group.size + 1) / group.size)  # strictly growing as the width shrinks
    widths = sorted(growth, reverse=True)
    rising = np.maximum.accumulate([growth[width] for width in widths])
    return [-float(np.interp(removed[width], removed[widths], rising)) for width in choices]
