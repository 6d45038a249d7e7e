"""A run in several stages: how many epochs each gets, and how far towards the budget it goes."""

from __future__ import annotations

from collections.abc import Mapping

from edgeprune.search.options import Options
from edgeprune.search.plan.metrics import ModelMetrics
from edgeprune.task import Task

EARLY_SHARE = 0.3
"""The share of the fine-tuning epochs that stages before the last get."""


def stage_shares(task: Task, options: Options) -> list[float]:
    """Epochs of every stage: one, unless two are asked for.

    Two stages were not better where they were tried: at 30 % of the latency and equal steps, the divergence from the dense model after them
    was 1.2 times that of one cut for a DS-CNN (two seeds), and 1.03 times for a ResNet-20, of which the search took twice as long.
    """
    epochs = options.epochs_of(task)
    if options.schedule != "iterative" or task.train is None:
        return [epochs]
    return [EARLY_SHARE * epochs, (1 - EARLY_SHARE) * epochs]


def limits_of_stage(limits: Mapping[str, float], dense: ModelMetrics, part: float) -> dict[str, float]:
    """Limits ``part`` of the way, in equal factors, from the ``dense`` model's figures to the budget."""
    found = {}
    for kind, limit in limits.items():
        start = dense.of(kind) or limit
        found[kind] = start * (limit / start) ** part
    return found
