"""Magnitude of all weights a channel owns (Li et al., "Pruning Filters for Efficient ConvNets", 2017)."""

from __future__ import annotations

import numpy as np

from edgeprune.graph import Analysis
from edgeprune.importance.reduce import by_group, per_channel
from edgeprune.importance.registry import Saliency, criterion
from edgeprune.task import Task


@criterion("l1")
def l1(task: Task, analysis: Analysis) -> Saliency:
    """Sum of absolute weights."""
    return by_group(analysis, per_channel(analysis, task.model, lambda p: p.detach().abs(), lambda begins: True))


@criterion("l2")
def l2(task: Task, analysis: Analysis) -> Saliency:
    """Euclidean norm of the weights."""
    return by_group(analysis, np.sqrt(squared_norms(task, analysis)))


def squared_norms(task: Task, analysis: Analysis) -> np.ndarray:
    """For every channel the sum of the squares of all weights it owns."""
    return per_channel(analysis, task.model, lambda p: p.detach().square(), lambda begins: True)
