"""How wide the tensors of a graph are, as functions of what every group keeps."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from torch import Tensor, fx

from edgeprune.cost.width import WidthExpr
from edgeprune.graph import Analysis
from edgeprune.graph.labels import squeeze_constant, varying


@dataclass(frozen=True)
class Tensors:
    """Widths in one analysed graph."""

    analysis: Analysis
    _shares: dict[str, tuple[WidthExpr, ...]] = field(default_factory=dict)

    @cached_property
    def _group_of(self) -> dict[int, tuple[str, int]]:
        """For every prunable channel its group and that group's size."""
        return {int(channel): (group.name, group.size) for group in self.analysis.groups for channel in group.rows.ravel()}

    def count(self, labels: Tensor) -> WidthExpr:
        """How many elements of a label array stay."""
        channels, counts = np.unique(self.analysis.channels_of(labels).numpy(), return_counts=True)
        constant, terms = 0.0, dict[str, float]()
        for channel, count in zip(channels.tolist(), counts.tolist(), strict=True):
            if channel in self._group_of:
                name, size = self._group_of[channel]
                terms[name] = terms.get(name, 0.0) + count / size
            else:
                constant += count
        return WidthExpr(constant, tuple(sorted(terms.items())))

    def width(self, node: fx.Node, axis: int | None = None) -> tuple[WidthExpr, tuple[int, int]]:
        """The width of a node's tensor along its channels, and its extent (H, W) along the rest, at the example's batch size.

        ``axis``: the dimension of the channels where none of them may go; guessed from the number of dimensions unless given.
        """
        labels = self._labels(node)
        if labels is None:
            return WidthExpr(0.0), (1, 1)
        shape = self.analysis.captured.extent(node)
        dims = varying(labels)
        guess = 1 if len(shape) in (4, 5) else max(len(shape) - 1, 0)
        dim = dims[-1] if dims else guess if axis is None else axis
        rest = [size for d, size in enumerate(shape) if d not in (dims or [dim])]
        rows = (math.prod(rest[:-1]) if len(rest) > 1 else 1, rest[-1] if rest else 1)
        return (self.count(labels) if dims else WidthExpr(float(shape[dim] if shape else 1))), rows

    def share(self, node: fx.Node) -> tuple[WidthExpr, ...]:
        """Which part of an activation stays: one factor, 1 in the dense model; none where all of it stays."""
        labels = self._labels(node)
        return () if labels is None else self._factors([labels])

    def parameter_width(self, name: str, dim: int, size: int) -> WidthExpr:
        """How many of the ``size`` places along ``dim`` of a parameter stay."""
        found = (labels for (owner, _), labels in self.analysis.flow.owners.items() if owner == name and varying(labels) == [dim])
        labels = next(found, None)
        return WidthExpr(float(size)) if labels is None else self.count(labels)

    def parameter_shares(self, name: str) -> tuple[WidthExpr, ...]:
        """Which part of a parameter stays: a factor for each of its dimensions that loses something, each 1 in the dense model."""
        if name not in self._shares:
            owned = [labels for (owner, _), labels in self.analysis.flow.owners.items() if owner == name]
            self._shares[name] = self._factors(owned)
        return self._shares[name]

    def _factors(self, arrays: list[Tensor]) -> tuple[WidthExpr, ...]:
        """Counts as shares, rounded so that equal ones are equal; constant ones left out."""
        shares = []
        for labels in arrays:
            width, size = self.count(labels), squeeze_constant(labels).numel()
            if width.terms:
                terms = tuple((group, round(factor / size, 15)) for group, factor in width.terms)
                shares.append(WidthExpr(round(width.constant / size, 15), terms))
        return tuple(shares)

    def _labels(self, node: fx.Node) -> Tensor | None:
        labels = self.analysis.flow.values.get(node)
        if isinstance(labels, (list, tuple)):  # of a pooling with places, of recurrent layers: the values come first
            labels = next((part for part in labels if isinstance(part, Tensor)), None)
        return labels if isinstance(labels, Tensor) else None
