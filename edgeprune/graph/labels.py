"""Label arrays: for every element of a tensor, the channel it belongs to.

A label array is an ``int64`` tensor of the activation's own shape. Label 0 is "no channel: must stay"; every other label is one
channel. Along dimensions where the label does not change (batch, space, time) the array has stride 0, so a
(64, 256, 56, 56) activation costs 256 numbers, and shape operations are run on the array itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor


def no_labels(shape: Sequence[int]) -> Tensor:
    """Labels of a tensor no part of which is a channel."""
    return torch.zeros((), dtype=torch.int64).expand(tuple(shape))


def along(vector: Tensor, shape: Sequence[int], dim: int) -> Tensor:
    """Labels of ``shape`` that follow ``vector`` along ``dim`` and are constant elsewhere."""
    view = [1] * len(shape)
    view[dim] = -1
    return vector.reshape(view).expand(tuple(shape))


def narrowed(labels: Tensor, dims: Iterable[int]) -> Tensor:
    """The first place along each of ``dims``, which keep size 1."""
    chosen = set(dims)
    return labels[tuple(slice(0, 1) if dim in chosen else slice(None) for dim in range(labels.dim()))]


def without(labels: Tensor, dims: Iterable[int]) -> Tensor:
    """The first place along each of ``dims``, which are gone."""
    for dim in sorted(dims, reverse=True):
        labels = labels.select(dim, 0)
    return labels


def squeeze_constant(labels: Tensor) -> Tensor:
    """The array with every constant (stride 0) dimension narrowed to size 1."""
    return narrowed(labels, (dim for dim, stride in enumerate(labels.stride()) if stride == 0))


def canonical(labels: Tensor) -> Tensor:
    """The same array, with stride 0 wherever it is constant."""
    core = squeeze_constant(labels)
    for dim in range(core.dim()):
        if core.shape[dim] > 1:
            first = core.narrow(dim, 0, 1)
            if bool((core == first).all()):
                core = first
    if core.untyped_storage().nbytes() > 2 * core.numel() * core.element_size():
        core = core.clone()  # a view would keep the whole array alive
    return core.expand(labels.shape)


def meet(left: Tensor, right: Tensor) -> Tensor:
    """``left`` where both have a channel; broadcast to each other."""
    shape = joint_shape(left, right)
    left, right = aligned(left, right)
    return (left if bool(right.all()) else torch.where(right != 0, left, 0)).expand(shape)


def varying(labels: Tensor) -> list[int]:
    """The dimensions along which the labels of a canonical array change."""
    return [dim for dim, (size, stride) in enumerate(zip(labels.shape, labels.stride(), strict=True)) if size > 1 and stride != 0]


class Channels:
    """The channels made so far, and which of them have been found to be one and the same."""

    def __init__(self) -> None:
        self.count = 1  # label 0 is "no channel"
        self.fixed: dict[int, str] = {}
        self.collapsed: list[tuple[int, str]] = []  # a channel of those that were made one, and why
        self._pending: list[tuple[np.ndarray, np.ndarray]] = []  # found to be one, not yet in _roots
        self._roots = np.zeros(1, np.int64)

    def fresh(self, shape: Sequence[int]) -> Tensor:
        """New channels, one for every element of ``shape``."""
        size = int(np.prod(shape))
        labels = torch.arange(self.count, self.count + size).reshape(tuple(shape))
        self.count += size
        return labels

    def unite(self, left: Tensor, right: Tensor, reason: str) -> None:
        """Make channels one, element by element (broadcastable arrays). What meets label 0 is fixed because of ``reason``."""
        if left.dim() != right.dim():
            raise ValueError(f"labels of {left.dim()} and {right.dim()} dimensions")
        left, right = aligned(left, right)
        keep = left != right
        left, right = left[keep], right[keep]
        zero = (left == 0) | (right == 0)
        self.freeze(torch.maximum(left[zero], right[zero]), reason)
        left, right = left[~zero], right[~zero]
        if left.numel():
            self._pending.append((left.numpy(), right.numpy()))

    def collapse(self, labels: Tensor, dims: Iterable[int], reason: str) -> Tensor:
        """Make one what differs along ``dims`` alone: the labels after that."""
        core = squeeze_constant(labels)
        self.unite(core, narrowed(core, dims), reason)
        self.collapsed += [(int(label), reason) for label in core.flatten()[:1]]
        return self.resolve(labels)

    def freeze(self, labels: Tensor, reason: str) -> None:
        """Channels that must stay; the first reason given is kept."""
        for label in torch.unique(squeeze_constant(labels)).tolist():
            if label:
                self.fixed.setdefault(label, reason)

    def roots(self) -> np.ndarray:
        """For every label, the smallest label of its class (0 for label 0)."""
        known = len(self._roots)
        if known < self.count:
            self._roots = np.concatenate([self._roots, np.arange(known, self.count)])
        pending, self._pending = self._pending, []
        for left, right in pending:
            self._merge(self._roots[left], self._roots[right])
        return self._roots

    def _merge(self, left: np.ndarray, right: np.ndarray) -> None:
        keep = left != right
        left, right = left[keep], right[keep]
        if not left.size:
            return
        left, right = self._distinct(*self._distinct(left, right))
        touched, places = np.unique(np.concatenate([left, right]), return_inverse=True)
        pairs = places.reshape(2, -1)
        graph = coo_array((np.ones(pairs.shape[1], np.int8), (pairs[0], pairs[1])), shape=(len(touched), len(touched)))
        classes = connected_components(graph, directed=False)[1]
        first = np.full(int(classes.max()) + 1, self.count, np.int64)
        np.minimum.at(first, classes, touched)
        renamed = np.arange(self.count)
        renamed[touched] = first[classes]
        self._roots = renamed[self._roots]

    def _distinct(self, left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pairs that join the same classes, few where millions repeat, without sorting those."""
        partner, seen = np.zeros(self.count, np.int64), np.zeros(self.count, bool)
        partner[left], seen[left] = right, True
        other = partner[left] != right
        first = np.flatnonzero(seen)
        return np.concatenate([partner[first], right[other]]), np.concatenate([first, partner[left[other]]])  # the other way round

    def resolve(self, labels: Tensor) -> Tensor:
        """The same array with every label replaced by its class."""
        core = squeeze_constant(labels)
        return canonical(torch.from_numpy(self.roots())[core].expand(labels.shape))


def aligned(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Both arrays broadcast to each other, without what is constant in both."""
    left, right = broadcast(left, right)
    index = tuple(slice(0, 1) if a == 0 and b == 0 else slice(None) for a, b in zip(left.stride(), right.stride(), strict=True))
    return left[index], right[index]


def broadcast(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Both arrays, expanded to the shape that they have together."""
    shape = joint_shape(left, right)
    return left.expand(shape), right.expand(shape)


def joint_shape(left: Tensor, right: Tensor) -> torch.Size:
    """The shape of both arrays broadcast to each other."""
    shape: torch.Size = torch.broadcast_shapes(left.shape, right.shape)  # type: ignore[no-untyped-call]
    return shape
