"""Operations that move elements, and those that ask for shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from edgeprune.importers.onnx.builder import Call
from edgeprune.importers.onnx.registry import operator
from edgeprune.importers.onnx.values import Extent, Size, Value, extent


@operator("Shape")
def shape(call: Call) -> Value:
    """Sizes, known without the inputs but for the batch."""
    start, end = call.attribute("start", 0), call.attribute("end")
    return Value(tuple(torch.tensor(list(one.shape)[start:end], dtype=torch.int64) for one in call[0].examples))


@operator("Size")
def size(call: Call) -> Value:
    """The number of elements."""
    return Value(tuple(torch.tensor(one.numel()) for one in call[0].examples))


def reshape_to(call: Call, value: Value, targets: Sequence[Sequence[int]]) -> Value:
    """``value`` in the shape ``targets`` say, one for each batch size; a size that follows the batch is written as -1 where it can be."""
    if value.constant:
        return Value(tuple(one.reshape(tuple(target)) for one, target in zip(value.examples, targets, strict=True)), None, value.source)
    sizes: list[Extent] = [extent(sizes) for sizes in zip(*targets, strict=True)]
    if sizes == value.shape:
        return value
    following = [place for place, size in enumerate(sizes) if isinstance(size, Size)]
    if following and all(value.numel() for value in value.examples):
        sizes[following[0]] = -1
    return call.apply(torch.reshape, value, tuple(sizes))


@operator("Reshape")
def reshape(call: Call) -> Value:
    """0 keeps a size, -1 takes what is left."""
    value, wanted = call[0], call[1]
    if not wanted.constant:
        call.refuse("takes a shape that depends on the data")
    targets = []
    for batch, one, target in zip(call.builder.batches, value.examples, wanted.examples, strict=True):
        sizes = [int(size) for size in target.flatten().tolist()]
        if not call.attribute("allowzero", 0):
            sizes = [one.shape[place] if size == 0 else size for place, size in enumerate(sizes)]
        if call.builder.unit and not value.constant and sizes[:1] == [1] and one.dim() and one.shape[0] == batch:
            sizes[0] = batch
        targets.append(list(one.reshape(sizes).shape))
    if len({len(target) for target in targets}) > 1:
        call.refuse("changes its number of dimensions with the batch size")
    return reshape_to(call, value, targets)


@operator("Flatten")
def flatten(call: Call) -> Value:
    """To a matrix."""
    value, axis = call[0], call.attribute("axis", 1)
    axis = axis + value.rank if axis < 0 else axis
    if axis == 1 and value.rank > 1:
        return value if value.rank == 2 else call.apply(torch.flatten, value, 1)
    return reshape_to(call, value, [(math.prod(one.shape[:axis]), math.prod(one.shape[axis:])) for one in value.examples])


@operator("Transpose")
def transpose(call: Call) -> Value:
    """Dimensions in another order; reversed by default."""
    order = call.attribute("perm", list(reversed(range(call[0].rank))))
    return call[0] if order == list(range(call[0].rank)) else call.apply(torch.permute, call[0], tuple(order))


@operator("Unsqueeze")
def unsqueeze(call: Call) -> Value:
    """New dimensions of size 1."""
    axes = [int(axis) for axis in call.given("axes", 1)]
    rank, value = call[0].rank + len(axes), call[0]
    for axis in sorted(axis % rank for axis in axes):
        value = call.apply(torch.unsqueeze, value, axis)
    return value


@operator("Squeeze")
def squeeze(call: Call) -> Value:
    """Without dimensions of size 1: those named, else all."""
    axes, value = call.given("axes", 1), call[0]
    if axes is None:
        axes = [place for place, size in enumerate(value.shape) if size == 1]
    chosen = sorted((int(axis) % value.rank for axis in axes), reverse=True)
    if wrong := [axis for axis in chosen if value.shape[axis] != 1]:
        call.refuse(f"takes away dimension {wrong[0]}, which is not of size 1")
    for axis in chosen:
        value = call.apply(torch.squeeze, value, axis)
    return value


@operator("Concat")
def concat(call: Call) -> Value:
    """Along a dimension."""
    values = [call[place] for place in range(len(call))]
    return values[0] if len(values) == 1 else call.apply(torch.cat, values, call.attribute("axis"))


@operator("Split")
def split(call: Call) -> list[Value]:
    """Into parts of given sizes, or equal ones of which the last may be smaller."""
    axis, count = call.attribute("axis", 0) % call[0].rank, len(call.node.outputs)
    sizes = call.given("split", 1)
    if sizes is None:
        whole = call[0].shape[axis]
        if isinstance(whole, Size):
            call.refuse("splits the samples")
        part = -(-whole // call.attribute("num_outputs", count))
        sizes = [min(part, whole - place * part) for place in range(count)]
    if any(isinstance(size, Size) for size in sizes):
        call.refuse("splits the samples")
    if count == 1:
        return [call[0]]
    return call.parts(call.apply(torch.split, call[0], [int(size) for size in sizes], axis), count)


@operator("Expand")
def expand(call: Call) -> Value:
    """Repeated along dimensions of size 1."""
    value = call[0]
    wanted = call.sizes(call[1])
    each = []
    for place, one in enumerate(value.examples):
        target = [size.values[place] if isinstance(size, Size) else size for size in wanted]
        each.append(np.broadcast_shapes(tuple(one.shape), tuple(target)))
    if value.constant:
        return Value(tuple(one.expand(target) for one, target in zip(value.examples, each, strict=True)))
    sizes = [extent(sizes) for sizes in zip(*each, strict=True)]
    if sizes == value.shape:
        return value
    own: list[Extent] = [*([0] * (len(sizes) - value.rank)), *value.shape]
    kept: list[Extent] = [-1 if isinstance(size, Size) and size == has else size for size, has in zip(sizes, own, strict=True)]
    return call.apply(torch.broadcast_to, value, tuple(kept))


@operator("Tile")
def tile(call: Call) -> Value:
    """Repeated whole."""
    return call.apply(torch.tile, call[0], tuple(call.sizes(call[1])))


@operator("DepthToSpace")
def depth_to_space(call: Call) -> Value:
    """Channels to positions, in the order that PyTorch has or in TensorFlow's."""
    block = call.attribute("blocksize")
    if call.attribute("mode", "DCR") == "CRD":
        return call.apply(functional.pixel_shuffle, call[0], block)
    return call.apply(_depth_to_space, call[0], block)


def _depth_to_space(value: Tensor, block: int) -> Tensor:
    _, channels, height, width = value.shape
    parts = value.reshape(-1, block, block, channels // block**2, height, width).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(-1, channels // block**2, height * block, width * block)


@operator("SpaceToDepth")
def space_to_depth(call: Call) -> Value:
    """Positions to channels, in TensorFlow's order."""
    return call.apply(_space_to_depth, call[0], call.attribute("blocksize"))


def _space_to_depth(value: Tensor, block: int) -> Tensor:
    _, channels, height, width = value.shape
    parts = value.reshape(-1, channels, height // block, block, width // block, block).permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(-1, channels * block**2, height // block, width // block)


_MODES = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}


@operator("Pad")
def pad(call: Call) -> Value:
    """Around any dimensions, by a constant, a reflection, the edge or the other side."""
    value, pads = call[0], [int(size) for size in call.given("pads", 1)]
    given = call.optional(3)
    axes = list(range(value.rank)) if given is None else [axis % value.rank for axis in call.integers(given, "the axes")]
    low, high = ([0] * value.rank for _ in range(2))
    for place, axis in enumerate(axes):
        low[axis], high[axis] = pads[place], pads[place + len(axes)]
    if not any(low) and not any(high):
        return value
    flat = [size for pair in zip(reversed(low), reversed(high), strict=True) for size in pair]
    while flat[-2:] == [0, 0]:
        flat = flat[:-2]
    mode = call.attribute("mode", "constant")
    if mode == "constant":
        fill = call.attribute("value", 0.0) if call.version < 11 else call.number(2, "the filling", 0.0)
        return call.apply(functional.pad, value, flat, "constant", fill if value.floating else int(fill or 0))
    return _pad_from_inside(call, value, flat, _MODES[mode])


def _pad_from_inside(call: Call, value: Value, flat: list[int], mode: str) -> Value:
    """PyTorch pads the last dimensions of tensors that have one or two more in front."""
    spatial = len(flat) // 2
    if spatial > 3 or value.rank < spatial:
        call.refuse(f"pads {spatial} of {value.rank} dimensions by {mode}")
    if value.rank == spatial:
        return call.apply(torch.squeeze, call.apply(functional.pad, call.apply(torch.unsqueeze, value, 0), flat, mode), 0)
    if value.rank > spatial + 2:
        call.refuse(f"pads {spatial} of {value.rank} dimensions by {mode}")
    return call.apply(functional.pad, value, flat, mode)
