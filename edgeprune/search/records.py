"""What a run records of its search, as values."""

from __future__ import annotations

from dataclasses import dataclass

from edgeprune.cost.width import Widths


@dataclass(frozen=True)
class KnownPlans:
    """Widths, latency relative to the dense model's, and peak bytes of plans that earlier runs measured."""

    plans: list[tuple[Widths, float, float | None]]


@dataclass(frozen=True)
class Scored:
    """A model's value of the task's metric, its standard error, how that was found, and its parts (see :class:`edgeprune.tuning.Score`)."""

    metric: float
    error: float | None = None
    how: str | None = None
    parts: str | None = None
