"""What every width of every group is worth: the program's objective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgeprune.graph import Analysis
from edgeprune.importance import Saliency, score
from edgeprune.runs.directory import RunDirectory
from edgeprune.search.events import EventStream
from edgeprune.search.plan.program import saliency_curve
from edgeprune.search.plan.sensitivity import ImportanceCurves, importance_curves
from edgeprune.task import Task


@dataclass(frozen=True)
class Objective:
    """``saliency`` orders the channels within each group; ``curves`` weigh the groups' widths against each other."""

    saliency: Saliency
    curves: ImportanceCurves


@dataclass(frozen=True)
class _Recorded:
    """An objective in JSON's types."""

    saliency: dict[str, list[list[float]]]
    curves: dict[str, list[float]]


def objective_of(
    task: Task,
    analysis: Analysis,
    choices: Mapping[str, Sequence[int]],
    criterion: str | None,
    sensitivity: bool,
    run: RunDirectory,
    key: str,
    events: EventStream,
) -> Objective:
    """Score channels and measure how sensitive the loss is to each group; recorded in the run under ``key``.

    With training data: criterion ``taylor`` unless another is named, and curves from calibration loss. Without: ``l2``, and a quadratic
    penalty on the share removed.
    """
    known = run.recall_as(key, _Recorded)
    if known is not None:
        return Objective({name: np.array(rows) for name, rows in known.saliency.items()}, known.curves)
    has_data = task.train is not None
    events.begin("scoring", f"channels by {criterion or ('taylor' if has_data else 'l2')}")
    saliency = score(task, analysis, criterion or ("taylor" if has_data else "l2"))
    if has_data and sensitivity:
        curves = importance_curves(task, analysis, saliency, choices, lambda done, total: events.progress("sensitivity", done, total))
    elif has_data:
        curves = {name: saliency_curve(saliency[name], choices[name]) for name in choices}
    else:
        curves = {group.name: _quadratic(saliency[group.name], choices[group.name], len(group.readers) + 1) for group in analysis.groups}
    run.record(key, {"saliency": {name: rows.tolist() for name, rows in saliency.items()}, "curves": curves})
    return Objective(saliency, curves)


def _quadratic(saliency: np.ndarray, choices: Sequence[int], weight: float) -> list[float]:
    """The error of a layer grows about with the square of the share removed (Frantar & Alistarh, "SPDY", 2022, use the same prior)."""
    kept = saliency_curve(saliency, range(saliency.shape[1] + 1))
    whole = kept[-1] or 1.0
    return [-weight * (1.0 - kept[width] / whole) ** 2 for width in choices]
