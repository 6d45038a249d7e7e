"""How far the answers really move when one group gets narrower: measured on calibration data, on the host only."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from torch import nn

from edgeprune.batches import Batch
from edgeprune.errors import TrainingError
from edgeprune.graph import Analysis, Group
from edgeprune.importance import Saliency
from edgeprune.placement import resolve
from edgeprune.surgery import masked, plan_from_saliency, reconstruct
from edgeprune.task import Task, no_batches
from edgeprune.tuning import mean_divergence, outputs_on, recalibrate
from edgeprune.tuning.context import seeded

PRIOR = 0.05
POINTS, CALIBRATION, BATCHES = 3, 2, 4
"""Widths tried for every group; training batches for batch-norm statistics, and for the loss."""

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
) -> ImportanceCurves:
    """For every group minus the divergence from the whole model at each of its widths, all other groups whole.

    The least salient channels are masked, batch-norm statistics recalibrated, and the answers on a few training batches compared with the
    whole model's (its loss taken where answers cannot be compared); widths in between are interpolated along the saliency that is lost. A
    penalty quadratic in the share removed, ``PRIOR`` of the mean divergence, settles ties and grows where many groups get narrow at once.
    Source of the idea: Frantar & Alistarh, "SPDY", 2022 (the program's coefficients from calibration, a quadratic prior).

    ``reconstructed``: the layers that read a narrower group are solved again first (:func:`edgeprune.surgery.reconstruct`), and answers are
    compared with those of the whole model with batch-norm statistics measured again as well, so that what that costs counts in no curve.
    """
    assert task.train is not None
    with seeded(0):  # a shuffling loader gives the same ones each time
        batches = list(islice(task.batches("train"), CALIBRATION + BATCHES))
    if not batches:
        raise no_batches(task)
    whole = copy.deepcopy(task.model)
    with task.on_device(whole):
        if reconstructed:
            recalibrate(whole, batches[:CALIBRATION])
        teacher = outputs_on(whole, batches[CALIBRATION:] or batches)
    base = 0.0 if reconstructed else _divergence(whole, task, batches, teacher)
    tried = {group.name: _widths_to_try(choices[group.name]) for group in analysis.groups}
    for block in analysis.blocks:  # the block as a whole counts once, with its first group
        if choices[block.groups[0]][0] == 0:
            tried[block.groups[0]].append(0)
    total, done, curves = sum(map(len, tried.values())), 0, ImportanceCurves()
    for group in analysis.groups:
        growth = {choices[group.name][-1]: 0.0}
        for width in tried[group.name]:
            together = analysis.block_of[group.name].groups if width == 0 else (group.name,)
            plan, source = plan_from_saliency(analysis, saliency, dict.fromkeys(together, width)), task.model
            if reconstructed and width:
                source = reconstruct(source, analysis, plan, batches[:CALIBRATION], resolve(task.device).device, group.readers)
            candidate = masked(source, analysis, plan)
            growth[width] = max(_divergence(candidate, task, batches, teacher) - base, 0.0)
            done += 1
            if on_progress is not None:
                on_progress(done, total)
        dropped = growth.pop(0, 0.0)
        curves[group.name] = _curve(group, saliency[group.name], growth, choices[group.name]) if growth else [0.0]
        if choices[group.name][0] == 0:
            curves[group.name][0] = -dropped
    return _with_prior(curves, choices)


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


def _divergence(model: nn.Module, task: Task, batches: list[Batch], teacher: Sequence[Any]) -> float:
    """After batch-norm statistics are measured again, as they will be for every pruned model."""
    with task.on_device(model):
        recalibrate(model, batches[:CALIBRATION])
        value = mean_divergence(model, task, batches[CALIBRATION:] or batches, teacher)
    if not np.isfinite(value):
        raise TrainingError(f"the loss on calibration data is {value}", remedy="Check the data and the model's weights.")
    return value
