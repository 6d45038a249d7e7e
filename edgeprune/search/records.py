"""What a run records of its search, as values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from edgeprune.cost.width import Widths
from edgeprune.runs.directory import RunDirectory

KnownPlan = tuple[Widths, float, float | None]
"""Widths, latency relative to the dense model's, and peak bytes of a plan that an earlier run measured."""


@dataclass(frozen=True)
class _KnownPlans:
    plans: list[KnownPlan]


def known_plans(run: RunDirectory, key: str, observed: Sequence[KnownPlan], groups: set[str]) -> list[KnownPlan]:
    """Those of ``observed`` that are of these ``groups``, once in a run: recorded under ``key``, whatever is observed later."""
    known = run.recall_as(key, _KnownPlans)
    if known is None:
        known = _KnownPlans([item for item in observed if item[0].keys() == groups])
        run.record(key, asdict(known))
    return known.plans


@dataclass(frozen=True)
class Scored:
    """A model's value of the task's metric, its standard error, how that was found, and its parts (see :class:`edgeprune.tuning.Score`)."""

    metric: float
    error: float | None = None
    how: str | None = None
    parts: str | None = None
