"""Statistics of activations: their mean (Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient Inference", 2017,
section 2.2) and how many are zero (Hu et al., "Network Trimming", 2016)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from edgeprune.graph import Analysis
from edgeprune.importance.reduce import add_per_channel, by_group
from edgeprune.importance.registry import Saliency, criterion
from edgeprune.importance.watch import observe, reading_places, require_whole
from edgeprune.placement import wide
from edgeprune.task import Task


@criterion("activation", needs_data=True)
def activation(task: Task, analysis: Analysis) -> Saliency:
    """Mean absolute activation of the channel where weights read it, over samples and positions; the mean of its places."""
    require_whole(analysis, "criterion activation")
    return by_group(analysis, _means(task, analysis, lambda value: value.abs()))


@criterion("apoz", needs_data=True)
def apoz(task: Task, analysis: Analysis) -> Saliency:
    """Share of the channel's activations that are not zero where weights read it: one less the average percentage of zeros.

    It distinguishes channels behind activations that cut off at zero (ReLU and its kin); behind any other it is uniform.
    """
    require_whole(analysis, "criterion apoz")
    return by_group(analysis, _means(task, analysis, lambda value: value != 0))


def _means(task: Task, analysis: Analysis, statistic: Callable[[Tensor], Tensor]) -> np.ndarray:
    """For every channel the mean of ``statistic`` over all that its reading places hold of it, places counted equally."""
    places, channels = reading_places(analysis), len(analysis.roots)
    sums, counts = ({node: np.zeros(channels) for node in places} for _ in range(2))
    for values in observe(task, analysis, places):
        for node, value in values.items():
            held = places[node]
            add_per_channel(sums[node], wide(statistic(value)), held)
            counts[node] += np.bincount(held.flatten().numpy(), minlength=channels) * (value.numel() / held.numel())
    means = np.array([sums[node] / np.maximum(counts[node], 1) for node in places])
    seen = np.array([counts[node] > 0 for node in places])
    return np.asarray(means.sum(0) / np.maximum(seen.sum(0), 1))
