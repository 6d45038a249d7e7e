"""What every width of every group is worth: the program's objective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from edgeprune.graph import Analysis
from edgeprune.importance import Saliency, score
from edgeprune.runs.directory import RunDirectory
from edgeprune.search.events import EventStream
from edgeprune.search.plan.program import saliency_curve
from edgeprune.search.plan.sensitivity import Growths, ImportanceCurves, importance_curves
from edgeprune.task import Task

SENSITIVITY, RECONSTRUCTED, IMPORTANCE, MAGNITUDE, UNIFORM = "sensitivity", "reconstructed", "importance", "magnitude", "uniform"
MEASURED = (SENSITIVITY, RECONSTRUCTED)
OBJECTIVES = (*MEASURED, IMPORTANCE, MAGNITUDE, UNIFORM)
"""What the program may maximise.

``sensitivity``: the divergence from the dense model that every width was measured to cost. ``reconstructed``: the same after the remaining
weights are reconstructed. ``importance``: the importance of the channels that stay, by the run's criterion. ``magnitude``: the same by the
norm of the weights, as global magnitude pruning ranks them. ``uniform``: about the same share of every group, as uniform pruning keeps.
"""

EVENNESS = 8
"""The power of the share removed that ``uniform`` penalises: the higher, the nearer are all shares to each other."""


@dataclass(frozen=True)
class Objective:
    """``saliency`` orders the channels within each group; ``curves`` weigh the groups' widths against each other."""

    saliency: Saliency
    curves: ImportanceCurves
    name: str = IMPORTANCE


@dataclass(frozen=True)
class _Recorded:
    """An objective in JSON's types."""

    saliency: dict[str, list[list[float]]]
    curves: dict[str, list[float]]


@dataclass
class Objectives:
    """The objectives of ``task.model``, each made when it is first asked for and recorded in ``run`` under ``key`` and its name.

    ``choices``: the widths that every group may take. ``criterion``: of the channels' importance; None means Taylor with training data,
    else L2. Without training data there is nothing to measure: ``sensitivity`` and ``reconstructed`` are then a penalty quadratic in the
    share of importance removed. ``growths``: see :func:`importance_curves`.
    """

    task: Task
    analysis: Analysis
    choices: Mapping[str, Sequence[int]]
    criterion: str | None
    run: RunDirectory
    key: str
    events: EventStream
    growths: Growths | None = None
    _saliency: dict[str, Saliency] = field(default_factory=dict)

    def get(self, name: str) -> Objective:
        """Objective ``name`` of :data:`OBJECTIVES`."""
        key = f"{self.key}-{name}"
        known = self.run.recall_as(key, _Recorded)
        if known is not None:
            return Objective({group: np.array(rows) for group, rows in known.saliency.items()}, known.curves, name)
        saliency = self._scored("l2" if name == MAGNITUDE else self.criterion or ("l2" if self.task.train is None else "taylor"))
        curves = self._curves(name, saliency)
        self.run.record(key, {"saliency": {group: rows.tolist() for group, rows in saliency.items()}, "curves": curves})
        return Objective(saliency, curves, name)

    def _scored(self, criterion: str) -> Saliency:
        if criterion not in self._saliency:
            self.events.begin("scoring", f"channels by {criterion}")
            self._saliency[criterion] = score(self.task, self.analysis, criterion)
        return self._saliency[criterion]

    def _curves(self, name: str, saliency: Saliency) -> ImportanceCurves:
        if name in MEASURED and self.task.train is not None:
            shown = partial(self.events.progress, "sensitivity" if name == SENSITIVITY else "sensitivity after reconstruction")
            solved = name == RECONSTRUCTED
            return importance_curves(self.task, self.analysis, saliency, self.choices, shown, reconstructed=solved, growths=self.growths)
        if name in MEASURED:
            return {
                group.name: _quadratic(saliency[group.name], self.choices[group.name], len(group.readers) + 1)
                for group in self.analysis.groups
            }
        if name == UNIFORM:
            return {group: _even(widths) for group, widths in self.choices.items()}
        return {group: saliency_curve(saliency[group], widths) for group, widths in self.choices.items()}


def _even(choices: Sequence[int]) -> list[float]:
    """A penalty that grows so fast with the share removed that the largest share decides."""
    return [-((1.0 - width / max(choices[-1], 1)) ** EVENNESS) for width in choices]


def _quadratic(saliency: np.ndarray, choices: Sequence[int], weight: float) -> list[float]:
    """The error of a layer grows about with the square of the share removed (Frantar & Alistarh, "SPDY", 2022, use the same prior)."""
    kept = saliency_curve(saliency, range(saliency.shape[1] + 1))
    whole = kept[-1] or 1.0
    return [-weight * (1.0 - kept[width] / whole) ** 2 for width in choices]
