"""Labels followed through the graph: what rules work with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from edgeprune.graph.capture import Captured
from edgeprune.graph.labels import Channels, along, broadcast, canonical, joint_shape, meet, no_labels, squeeze_constant, varying


@dataclass(frozen=True)
class ParamView:
    """A parameter or buffer on its way to its operation.  ``stored``: its shape in the model. ``index``: its elements' places there, once
    a shape operation touched it."""

    name: str
    stored: torch.Size
    index: Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        """Its shape as operations see it."""
        return self.stored if self.index is None else self.index.shape

    def places(self) -> Tensor:
        """For every element, its flat place in the parameter as it is stored."""
        return torch.arange(self.stored.numel()).reshape(self.stored) if self.index is None else self.index

    def moved(self, index: Tensor) -> ParamView:
        """The same parameter after a shape operation."""
        return ParamView(self.name, self.stored, index)


Owner = tuple[str, tuple[int, ...]]
"""A parameter or buffer, and the dimensions along which its channels change."""


@dataclass(frozen=True)
class Transposition:
    """A label array, the order that an operation puts its dimensions in, and which operation."""

    labels: Tensor
    order: tuple[int, ...]
    reason: str


@dataclass
class Flow:
    """The state of one analysis.

    ``whole_heads``: attention loses whole heads; else the same number of dimensions of every head.
    ``owners``: for a parameter or buffer and some of its dimensions, labels that broadcast to its shape: an element goes when any of its
    channels goes. ``producing``: those of the owners whose channels begin there (the others read them).
    ``balances``: label matrices each row of which must keep equally many channels. ``boxes``: arrays that must stay boxes.
    ``transpositions``: arrays whose dimensions trade places. ``values``: what every node computes.
    ``frozen``: parameters that must stay whole, and why. ``used``: which elements of a parameter that is an activation are.
    """

    captured: Captured
    whole_heads: bool = True
    channels: Channels = field(default_factory=Channels)
    owners: dict[Owner, Tensor] = field(default_factory=dict)
    producing: set[Owner] = field(default_factory=set)
    balances: list[tuple[Tensor, str]] = field(default_factory=list)
    boxes: list[tuple[Tensor, str]] = field(default_factory=list)
    transpositions: list[Transposition] = field(default_factory=list)
    values: dict[fx.Node, Any] = field(default_factory=dict)
    frozen: dict[str, str] = field(default_factory=dict)
    used: dict[str, Tensor] = field(default_factory=dict)
    unsupported: list[tuple[str, str]] = field(default_factory=list)

    def labels(self, value: Any) -> Tensor:
        """The labels of an activation; a parameter used as one gets a channel for every element."""
        if isinstance(value, ParamView):
            if value.stored.numel() <= 1 or value.name in self.frozen:
                return no_labels(value.shape)
            owner = (value.name, tuple(range(len(value.stored))))
            if owner not in self.owners:
                self.owners[owner] = self.channels.fresh(value.stored)
                self.producing.add(owner)
            self._mark_used(value)
            labels = self.owners[owner]
            return labels if value.index is None else labels.flatten()[value.index]
        assert isinstance(value, Tensor)
        return value

    def _mark_used(self, value: ParamView) -> None:
        used = self.used.setdefault(value.name, torch.zeros(value.stored, dtype=torch.bool))
        if value.index is None:
            used.fill_(True)
        else:
            used.view(-1)[value.index.flatten()] = True

    def vector(self, value: Any, dim: int, reason: str) -> Tensor:
        """The labels along ``dim``, constant elsewhere: channels that differ along other dimensions alone become one, for ``reason``."""
        labels = self.labels(value)
        dim %= labels.dim()
        if set(varying(labels)) - {dim}:
            labels = self.channels.resolve(labels)
        if others := set(varying(labels)) - {dim}:
            labels = self.channels.collapse(labels, others, reason)
        index = tuple(slice(None) if d == dim else 0 for d in range(labels.dim()))
        return labels[index]

    def produce(self, value: Any, dims: int | tuple[int, ...], labels: Tensor, reason: str) -> None:
        """The channels ``labels`` (broadcastable to the shape of parameter ``value``) begin along its ``dims``."""
        owner = self._own(value, dims, labels, reason)
        if owner is not None:
            self.producing.add(owner)

    def read(self, value: Any, dims: int | tuple[int, ...], labels: Tensor, reason: str) -> None:
        """Parameter ``value`` reads the channels ``labels`` (broadcastable to its shape) along its ``dims``."""
        self._own(value, dims, labels, reason)

    def _own(self, value: Any, dims: int | tuple[int, ...], labels: Tensor, reason: str) -> Owner | None:
        if value is None:
            return None
        if not isinstance(value, ParamView):  # computed on the fly from others, whose channels these are
            self.channels.unite(value, labels, f"{reason}: its weight is computed from fixed channels")
            return None
        dims = (dims,) if isinstance(dims, int) else dims
        if value.name in self.frozen:
            self.channels.freeze(labels, self.frozen[value.name])
        if value.index is not None:
            return self._own_moved(value, dims, labels, reason)
        owner = (value.name, dims)
        known = self.owners.setdefault(owner, labels)
        if known is not labels:
            self.channels.unite(known, labels, f"{value.name} is used twice")
        return owner

    def _own_moved(self, value: ParamView, dims: tuple[int, ...], labels: Tensor, reason: str) -> Owner:
        """Labels of a part, or a reordering, of a parameter, at the places where it is stored."""
        assert value.index is not None
        labels = canonical(labels.expand(value.index.shape))
        numbers = along_dims(value.index.shape, tuple(varying(labels)) or dims)
        for dim in range(len(value.stored)):
            vector = along_stored(value, dim, numbers, labels)
            if vector is not None:  # the labels follow one dimension of the parameter as it is stored
                return self._own_stored(value, (dim,), vector.reshape([-1 if d == dim else 1 for d in range(len(value.stored))]))
        flat = torch.zeros(value.stored.numel(), dtype=torch.int64)
        flat[value.index.flatten()] = labels.flatten()
        labels = canonical(flat.reshape(value.stored))
        return self._own_stored(value, tuple(varying(labels)) or dims[:1], labels)

    def _own_stored(self, value: ParamView, dims: tuple[int, ...], labels: Tensor) -> Owner:
        owner = (value.name, dims)
        known = self.owners.get(owner)
        if known is not None:
            known, labels = broadcast(known, labels)
            both = (known != 0) & (labels != 0)
            self.channels.unite(known[both], labels[both], f"{value.name} is used twice")
            labels = torch.where(known != 0, known, labels)
        self.owners[owner] = labels
        return owner

    def freeze(self, value: Any, reason: str) -> None:
        """What an activation carries must stay; a parameter must stay whole."""
        if not isinstance(value, ParamView):
            self.channels.freeze(value, reason)
            return
        for owner, labels in self.owners.items():
            if owner[0] == value.name:
                self.channels.freeze(labels, reason)
        self.frozen.setdefault(value.name, reason)

    def join(self, values: list[Any], reason: str) -> Tensor:
        """Element-wise with broadcasting: channels that meet are one.

        An operand that is stretched over the other's channels (a spatial gate) does not tie them together; its own channels stay.
        """
        operands = [self.labels(value) for value in values]
        result = operands[0]
        for other in operands[1:]:
            result = self._join_two(result, other, reason)
        return canonical(result)

    def _join_two(self, left: Tensor, right: Tensor, reason: str) -> Tensor:
        rank = max(left.dim(), right.dim())
        left, right = (t.reshape((1,) * (rank - t.dim()) + tuple(t.shape)) if t.dim() < rank else t for t in (left, right))
        shape = joint_shape(left, right)
        if self.whole_heads:
            left, right = self._whole_rows(left, right, reason)
            right, left = self._whole_rows(right, left, reason)
        free_left, free_right = self._stretched(left, right), self._stretched(right, left)
        if free_left or free_right:
            if free_left and free_right and varying(left) and varying(right):  # two channels in every element: one of them stays
                kept, gate = sorted((left, right), key=lambda labels: -squeeze_constant(labels).numel())
            else:
                kept, gate = (right, left) if free_left and not (free_right and varying(left)) else (left, right)
            self.channels.freeze(gate, f"{reason}: stretched over other channels")
            return kept.expand(shape)
        self.channels.unite(left, right, f"{reason} meets what must stay")
        return meet(left, right)

    def _whole_rows(self, table: Tensor, rows: Tensor, reason: str) -> tuple[Tensor, Tensor]:
        """Where every row of channels meets one ``table`` (attention heads a rotary one), rows go whole; the table stays."""
        if len(varying(rows)) < 2 or not any(table.shape[dim] == 1 for dim in varying(rows)):
            return table, rows
        rows = self.channels.resolve(rows)
        alike, own = ([dim for dim in varying(rows) if (table.shape[dim] == 1) is shared] for shared in (True, False))
        if not alike or not own or max(alike) > min(own):
            return table, rows
        self.channels.freeze(table, f"{reason}: shared by several heads")
        return no_labels(table.shape), self.channels.collapse(rows, own, f"{reason}: meets a table that all heads share")

    @staticmethod
    def _stretched(operand: Tensor, other: Tensor) -> bool:
        """Whether ``operand`` is broadcast along every dimension in which ``other`` changes (and there is one)."""
        dims = varying(other)
        return bool(dims) and all(operand.shape[dim] == 1 for dim in dims) and bool(other.any() or operand.any())

    def balance(self, matrix: Tensor, reason: str) -> None:
        """Every row of the label matrix must keep equally many channels."""
        if matrix.shape[0] > 1:
            self.balances.append((matrix, reason))

    def follow(self, value: Any, dim: int, shape: torch.Size | tuple[int, ...], reason: str) -> Tensor:
        """The labels along ``dim`` of ``value``, in a result of ``shape`` that has them along the same dimension."""
        return along(self.vector(value, dim, reason), shape, dim)


def along_dims(shape: torch.Size, dims: tuple[int, ...]) -> Tensor:
    """Numbers of ``shape`` that differ along ``dims`` and nowhere else."""
    sizes = [size if dim in dims else 1 for dim, size in enumerate(shape)]
    return torch.arange(1, 1 + int(torch.Size(sizes).numel())).reshape(sizes).expand(shape)


def along_stored(value: ParamView, dim: int, numbers: Tensor, labels: Tensor) -> Tensor | None:
    """``labels`` as a vector along stored dimension ``dim`` when ``numbers`` depend on the place along it alone; 0 where unused."""
    assert value.index is not None
    places = torch.unravel_index(value.index.flatten(), value.stored)[dim]
    first = torch.full((value.stored[dim],), -1, dtype=torch.int64)
    first[places] = torch.arange(places.numel())
    if not torch.equal(numbers.flatten(), numbers.flatten()[first[places]]):
        return None
    flat = labels.flatten()
    return torch.where(first >= 0, flat[first.clamp_min(0)], 0)


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """The shape of what a node computes, at the example's batch size."""
    return tuple(int(size) if isinstance(size, int) else size.node.hint for size in node.meta["val"].shape)


def name_of(node: fx.Node) -> str:
    """The name of a node's operation, without namespace and overload."""
    name = str(node.target)
    return name.split(".")[1] if "." in name else getattr(node.target, "__name__", name)


def module_of(node: fx.Node) -> str:
    """The module whose code computes a node, by the name it has in the model."""
    stack = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
    path = (stack[-1] if stack else "").removeprefix("L['self']").strip(".")
    return path or "the model's own forward"


def place_of(node: fx.Node) -> str:
    """A node as messages name it: its operation, and the module whose code computes it."""
    return f"{name_of(node)} in {module_of(node)}"


def writes_in_place(node: fx.Node) -> bool:
    """Whether a node changes its operand and returns it."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def draws(node: fx.Node) -> bool:
    """Whether a node draws random numbers: dropout does in training mode alone, attention where it drops out."""
    if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
        return False
    name = name_of(node)
    if name == "scaled_dot_product_attention":
        return bool(node.args[4] if len(node.args) > 4 else node.kwargs.get("dropout_p"))
    return node.args[2] is True if "dropout" in name else name not in ("lstm", "gru", "rnn_tanh", "rnn_relu")
