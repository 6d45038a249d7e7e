"""A sweep over one limit, as values: its points, and which of them are in the front."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from edgeprune.decode import JsonObject
from edgeprune.runs.summary import RunSummary

_SHOWN = ("budget", "dense", "pruned", "metric_name", "higher_is_better", "measured", "device_measurements")
"""What ``frontier.json`` has of each summary."""


@dataclass(frozen=True)
class Point:
    """One level of a sweep.

    ``level``: the limit, as given. ``result``: of its run, None where no plan reached the limit, and ``error`` says why. ``best``: whether
    it meets all limits and no other such point is both smaller in the limited figure and better in the metric.
    """

    level: str
    run: Path
    result: RunSummary | None
    error: str | None = None
    best: bool = False

    @cached_property
    def summary(self) -> dict[str, Any] | None:
        """``result`` in JSON's types."""
        return self.result.to_json() if self.result else None

    def figure(self, kind: str) -> float:
        """The limited figure of the pruned model."""
        found = self.result.pruned.of(kind) if self.result else None
        return math.inf if found is None else found

    @property
    def loss(self) -> float:
        """The pruned model's metric, less is better."""
        found = self.result.loss if self.result else None
        return math.inf if found is None else found

    @property
    def missed(self) -> list[str]:
        """The limits that its model does not meet, as judged by its run."""
        return self.result.missed if self.result else []

    def to_json(self) -> JsonObject:
        """In JSON's types, with the figures of its summary."""
        found: JsonObject = {"level": self.level, "run": str(self.run), "error": self.error, "best": self.best, "missed": self.missed}
        plain = self.summary or {}
        return found | {name: plain.get(name) for name in _SHOWN}


@dataclass(frozen=True)
class Frontier:
    """The points of a sweep over ``kind``, in the order of its levels, kept in ``folder``."""

    kind: str
    points: list[Point]
    folder: Path

    def to_json(self) -> JsonObject:
        """The content of ``frontier.json``."""
        return {"kind": self.kind, "points": [point.to_json() for point in self.points]}


def pareto(points: Sequence[Point], kind: str) -> list[Point]:
    """The points with ``best`` set: of those that meet their limits, the ones that no other beats in both figures."""
    good = [point for point in points if point.result is not None and not point.missed]

    def beaten(point: Point) -> bool:
        mine = point.figure(kind), point.loss
        return any((their := (other.figure(kind), other.loss)) != mine and their <= mine and their[1] <= mine[1] for other in good)

    return [replace(point, best=point in good and not beaten(point)) for point in points]
