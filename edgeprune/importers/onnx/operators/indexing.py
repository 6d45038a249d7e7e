"""Taking parts of tensors, and writing into them."""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

from edgeprune.importers.onnx.builder import Call
from edgeprune.importers.onnx.registry import operator
from edgeprune.importers.onnx.values import Extent, Size, Value

_END = sys.maxsize // 2


@operator("Slice", until=9)
def slice_by_attributes(call: Call) -> Value:
    """From and to places that are attributes."""
    starts, ends = call.attribute("starts"), call.attribute("ends")
    return _slices(call, starts, ends, call.attribute("axes", list(range(len(starts)))), [1] * len(starts))


@operator("Slice", since=10)
def slice_by_inputs(call: Call) -> Value:
    """From and to places that are inputs."""
    starts, ends = call.sizes(call[1]), call.sizes(call[2])
    axes = call.integers(call[3], "the axes") if call.optional(3) is not None else list(range(len(starts)))
    steps = call.integers(call[4], "the steps") if call.optional(4) is not None else [1] * len(starts)
    return _slices(call, starts, ends, axes, steps)


def _slices(call: Call, starts: list[Extent], ends: list[Extent], axes: list[int], steps: list[int]) -> Value:
    value = call[0]
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        value = _slice(call, value, start, end, axis % max(value.rank, 1), step)
    return value


def _slice(call: Call, value: Value, start: Extent, end: Extent, axis: int, step: int) -> Value:
    size = value.shape[axis]
    if step < 0:
        return _backwards(call, value, start, end, axis, step)
    if isinstance(size, int) and isinstance(start, int) and isinstance(end, int):
        start, end, _ = slice(start, end, step).indices(size)
        end = max(start, end)
        if (start, end, step) == (0, size, 1):
            return value
    elif start == 0 and step == 1 and (end == size or (isinstance(end, int) and end >= _END)):
        return value
    elif isinstance(end, int) and end >= _END:
        end = sys.maxsize
    return call.apply(torch.ops.aten.slice.Tensor, value, axis, start, end, step)


def _backwards(call: Call, value: Value, start: Extent, end: Extent, axis: int, step: int) -> Value:
    size = value.shape[axis]
    if not (isinstance(size, int) and isinstance(start, int) and isinstance(end, int)):
        call.refuse("goes backwards through the samples")
    places = list(range(size))[slice(start, None if end < -size else end, step)]
    if places == list(range(size - 1, -1, -1)):
        return call.apply(torch.flip, value, (axis,))
    index = Value((torch.tensor(places, dtype=torch.int64),) * len(call.builder.batches))
    return call.apply(torch.index_select, value, axis, index)


@operator("Gather")
def gather(call: Call) -> Value:
    """Rows by their places; of a stored table an embedding."""
    value, index = call[0], call[1]
    axis = call.attribute("axis", 0) % max(value.rank, 1)
    table, places = value.fixed, index.fixed
    if value.constant and index.constant:
        return call.apply(_take, value, index, axis)
    if table is not None and table.dim() == 2 and axis == 0 and table.is_floating_point():
        module = nn.Embedding(*table.shape)
        module.weight = nn.Parameter(table.detach().clone())
        return call.layer(module, index, weight=0)
    if places is not None and places.dim() == 0:
        return call.apply(torch.select, value, axis, int(places))
    size = value.shape[axis]
    if places is not None and isinstance(size, int):
        index = Value((torch.where(places < 0, places + size, places),) * len(call.builder.batches))
        flat = index.example.flatten().tolist()
        if places.dim() == 1 and flat == list(range(flat[0], flat[0] + len(flat))):
            return _slice(call, value, flat[0], flat[0] + len(flat), axis, 1)
    return call.apply(torch.index_select, value, axis, index) if index.rank == 1 else call.apply(_take, value, index, axis)


def _take(value: Tensor, index: Tensor, axis: int) -> Tensor:
    taken = value.index_select(axis, torch.where(index < 0, index + value.shape[axis], index).reshape(-1))
    if index.dim() == 0:
        return taken.squeeze(axis)
    return taken.reshape(*value.shape[:axis], *index.shape, *value.shape[axis + 1 :])


@operator("GatherElements")
def gather_elements(call: Call) -> Value:
    """An element for every place of the index."""
    return call.apply(_gather_elements, call[0], call[1], call.attribute("axis", 0))


def _gather_elements(value: Tensor, index: Tensor, axis: int) -> Tensor:
    index = index.long()
    return torch.gather(value, axis, torch.where(index < 0, index + value.shape[axis], index))


@operator("GatherND")
def gather_nd(call: Call) -> Value:
    """Slices by the coordinates in the last dimension of the index."""
    if call.attribute("batch_dims", 0):
        call.refuse("has batch dimensions")
    return call.apply(_gather_nd, call[0], call[1])


def _gather_nd(value: Tensor, index: Tensor) -> Tensor:
    return value[tuple(index.unbind(-1))]


@operator("ScatterElements", "Scatter")
def scatter_elements(call: Call) -> Value:
    """A copy with elements replaced, or combined with what is there."""
    how, axis = call.attribute("reduction", "none"), call.attribute("axis", 0)
    if how == "none":
        return call.apply(torch.scatter, call[0], axis, call[1], call[2])
    names = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}
    return call.apply(torch.scatter_reduce, call[0], axis, call[1], call[2], names[how])


@operator("ScatterND")
def scatter_nd(call: Call) -> Value:
    """A copy with slices replaced, or added to."""
    how = call.attribute("reduction", "none")
    if how not in ("none", "add"):
        call.refuse(f"combines by {how}")
    return call.apply(_scatter_nd, call[0], call[1], call[2], how == "add")


def _scatter_nd(value: Tensor, index: Tensor, updates: Tensor, adds: bool) -> Tensor:
    return torch.index_put(value, tuple(index.unbind(-1)), updates, adds)


@operator("OneHot")
def one_hot(call: Call) -> Value:
    """1 (or another value) at the place of the index."""
    depth = int(call.fixed(1, "a depth").flatten()[0])
    off, on = call.fixed(2, "values").tolist()
    return call.apply(_one_hot, call[0], depth, off, on, call.attribute("axis", -1), call[2].dtype)


def _one_hot(index: Tensor, depth: int, off: float, on: float, axis: int, dtype: torch.dtype) -> Tensor:
    axis = axis % (index.dim() + 1)
    places = torch.arange(depth).reshape([-1] + [1] * (index.dim() - axis))
    hit = (index.long() % depth).unsqueeze(axis) == places
    return torch.where(hit, on, off).to(dtype)


@operator("Trilu")
def trilu(call: Call) -> Value:
    """The upper or lower triangle."""
    diagonal = call.integers(call[1], "the diagonal")[0] if call.optional(1) is not None else 0
    return call.apply(torch.triu if call.attribute("upper", 1) else torch.tril, call[0], diagonal)


@operator("NonZero")
def non_zero(call: Call) -> Value:
    """Of a constant; else its size would depend on the data."""
    if not call[0].constant:
        call.refuse("makes a tensor whose size depends on the data")
    return call.apply(_non_zero, call[0])


def _non_zero(value: Tensor) -> Tensor:
    return value.nonzero().T


@operator("ReverseSequence")
def reverse_sequence(call: Call) -> Value:
    """Backwards in time, where all sequences are as long as the tensor."""
    time, lengths = call.attribute("time_axis", 0), call.sizes(call[1])
    if any(isinstance(length, Size) or length != call[0].shape[time] for length in lengths):
        call.refuse("reverses sequences of different lengths")
    return call.apply(torch.flip, call[0], (time,))
