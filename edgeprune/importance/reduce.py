"""Sums over what a channel owns."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor, nn

from edgeprune.graph import Analysis
from edgeprune.graph.capture import tensor_at
from edgeprune.importance.registry import Saliency


def per_channel(
    analysis: Analysis, model: nn.Module, value: Callable[[nn.Parameter], Tensor | None], wanted: Callable[[bool], bool]
) -> np.ndarray:
    """For every channel the sum of ``value(parameter)`` (same shape) over the elements it owns where it begins
    (``wanted(True)``) or is read (``wanted(False)``).  float64."""
    total = np.zeros(len(analysis.roots))
    for owner, labels in analysis.flow.owners.items():
        name = owner[0]
        parameter = tensor_at(model, name)
        if not isinstance(parameter, nn.Parameter) or not wanted(owner in analysis.flow.producing):
            continue
        elements = value(parameter)
        if elements is None:
            continue
        channels = analysis.channels_of(labels)
        dims = [dim for dim in range(channels.dim()) if channels.shape[dim] == 1 and elements.shape[dim] > 1]
        summed = elements.double().sum(dims, keepdim=True) if dims else elements.double()
        total += np.bincount(channels.flatten().numpy(), summed.flatten().numpy(), minlength=len(total))
    return total


def by_group(analysis: Analysis, total: np.ndarray) -> Saliency:
    """Per-channel numbers arranged as the groups' rows."""
    return {group.name: total[group.rows] for group in analysis.groups}


def relative(saliency: Saliency) -> Saliency:
    """Each group divided by its mean, so that groups of different scale compare."""
    return {name: values / max(float(values.mean()), 1e-30) for name, values in saliency.items()}
