"""What a channel owns: sums over it, and its elements themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from edgeprune.graph import Analysis
from edgeprune.graph.exported import tensor_at
from edgeprune.importance.registry import Saliency
from edgeprune.placement import wide


def owned(analysis: Analysis, model: nn.Module, wanted: Callable[[bool], bool]) -> Iterator[tuple[nn.Parameter, Tensor]]:
    """The parameters that own channels where they begin (``wanted(True)``) or are read (``wanted(False)``), each with the channel of
    every element (dimensions along which it does not change have size 1; 0: no channel)."""
    for owner, labels in analysis.flow.owners.items():
        parameter = tensor_at(model, owner[0])
        if isinstance(parameter, nn.Parameter) and wanted(owner in analysis.flow.producing):
            yield parameter, analysis.channels_of(labels)


def per_channel(
    analysis: Analysis, model: nn.Module, value: Callable[[nn.Parameter], Tensor | None], wanted: Callable[[bool], bool]
) -> np.ndarray:
    """For every channel the sum of ``value(parameter)`` (same shape) over the elements it owns where it begins
    (``wanted(True)``) or is read (``wanted(False)``).  float64."""
    total = np.zeros(len(analysis.roots))
    for parameter, channels in owned(analysis, model, wanted):
        elements = value(parameter)
        if elements is not None:
            add_per_channel(total, wide(elements), channels)
    return total


def add_per_channel(total: np.ndarray, elements: Tensor, channels: Tensor) -> None:
    """Add every element to its channel's ``total``.  ``channels``: broadcastable to the shape of ``elements``."""
    dims = [dim for dim in range(channels.dim()) if channels.shape[dim] == 1 and elements.shape[dim] > 1]
    summed = elements.sum(dims, keepdim=True) if dims else elements
    total += np.bincount(channels.flatten().numpy(), summed.flatten().cpu().numpy(), minlength=len(total))


def vectors(parameter: Tensor, channels: Tensor, row: np.ndarray) -> Tensor | None:
    """The elements that each channel of ``row`` (K,) owns in ``parameter``, as (K, n); None when they own none there.

    ``channels``: the channel of every element, broadcastable to the parameter's shape.
    """
    varying = [dim for dim in range(channels.dim()) if channels.shape[dim] > 1]
    constant = [dim for dim in range(channels.dim()) if channels.shape[dim] == 1]
    flat = channels.permute(*varying, *constant).flatten().numpy()
    places = np.flatnonzero(np.isin(flat, row))
    if not len(places):
        return None
    order = places[np.argsort(flat[places], kind="stable")].reshape(len(row), -1)  # by channel: all of a row own equally many
    ranks = np.argsort(np.argsort(row))
    rest = parameter.detach().permute(*varying, *constant).reshape(len(flat), -1)
    return rest[torch.from_numpy(order[ranks])].flatten(1)


def by_group(analysis: Analysis, total: np.ndarray) -> Saliency:
    """Per-channel numbers arranged as the groups' rows."""
    return {group.name: total[group.rows] for group in analysis.groups}
