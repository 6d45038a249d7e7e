"""Distance from the other filters (He et al., "Filter Pruning via Geometric Median for Deep Neural Networks Acceleration", 2019)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from edgeprune.graph import Analysis
from edgeprune.importance.reduce import owned, vectors
from edgeprune.importance.registry import Saliency, criterion
from edgeprune.task import Task

ROUNDING = 1e-6
"""Distances, relative to the largest norm, that matrix products in float64 cannot tell from zero."""


@criterion("fpgm")
def fpgm(task: Task, analysis: Analysis) -> Saliency:
    """Sum of the Euclidean distances to every other channel of the row: the least is nearest the geometric median, which the others
    replace best.

    A channel is the point of all weights that compute it, in every layer that does (biases and scales only where there is no such weight).
    A row whose channels coincide, or of two, is uniform.
    """
    owners = list(owned(analysis, task.model, lambda begins: begins))
    weights = [(parameter, channels) for parameter, channels in owners if parameter.dim() > 1]
    return {
        group.name: np.stack([_distances(_points(weights, row) or _points(owners, row), len(row)) for row in group.rows])
        for group in analysis.groups
    }


def _points(owners: list[tuple[torch.nn.Parameter, Tensor]], row: np.ndarray) -> list[Tensor]:
    found = (vectors(parameter, channels, row) for parameter, channels in owners)
    return [points for points in found if points is not None]


def _distances(points: list[Tensor], count: int) -> np.ndarray:
    if not points:
        return np.ones(count)
    joined = torch.cat([part.double() for part in points], 1)
    total = torch.cdist(joined, joined, compute_mode="use_mm_for_euclid_dist").sum(1).numpy()
    return total if total.max() > ROUNDING * count * float(joined.norm(dim=1).max()) else np.ones(count)
