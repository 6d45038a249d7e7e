"""A run in several stages: how many epochs each gets, and how far towards the budget it goes."""

from __future__ import annotations

from collections.abc import Mapping

from edgeprune.search.options import Options
from edgeprune.search.plan.metrics import ModelMetrics
from edgeprune.task import Task

EARLY_SHARE = 0.3
"""The share of the fine-tuning epochs that stages before the last get."""

DEEP = 0.4
"""Share of the dense model's figures below which a budget is met in two stages by default."""


def stage_shares(task: Task, options: Options, limits: Mapping[str, float], dense: ModelMetrics) -> list[float]:
    """Epochs of every stage."""
    epochs = task.epochs if options.epochs is None else options.epochs
    shares = [limit / figure for kind, limit in limits.items() if (figure := dense.of(kind))]
    iterative = options.schedule == "iterative" or (options.schedule == "auto" and min(shares, default=1.0) < DEEP - 1e-9)
    if not iterative or task.train is None or options.training == "scratch":
        return [epochs]
    return [EARLY_SHARE * epochs, (1 - EARLY_SHARE) * epochs]


def limits_of_stage(limits: Mapping[str, float], dense: ModelMetrics, part: float) -> dict[str, float]:
    """Limits ``part`` of the way, in equal factors, from the ``dense`` model's figures to the budget."""
    found = {}
    for kind, limit in limits.items():
        start = dense.of(kind) or limit
        found[kind] = start * (limit / start) ** part
    return found
