"""Pooling."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from edgeprune.importers.onnx.builder import Call
from edgeprune.importers.onnx.operators.convolution import padded, padding
from edgeprune.importers.onnx.registry import operator
from edgeprune.importers.onnx.values import Value

_MAX: dict[int, Any] = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
_AVERAGE: dict[int, Any] = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}
_ADAPTIVE: dict[int, Any] = {1: functional.adaptive_avg_pool1d, 2: functional.adaptive_avg_pool2d, 3: functional.adaptive_avg_pool3d}
_ADAPTIVE_MAX: dict[int, Any] = {1: functional.adaptive_max_pool1d, 2: functional.adaptive_max_pool2d, 3: functional.adaptive_max_pool3d}


def _window(call: Call) -> tuple[list[int], list[int], list[int], list[int], list[int], bool]:
    kernel = list(call.attribute("kernel_shape"))
    count = len(kernel)
    if count not in _MAX or call[0].rank != count + 2:
        call.refuse(f"pools over {count} of {call[0].rank} dimensions")
    strides, dilations = list(call.attribute("strides", [1] * count)), list(call.attribute("dilations", [1] * count))
    before, after = padding(call, call[0], kernel, strides, dilations)
    return kernel, strides, dilations, before, after, bool(call.attribute("ceil_mode", 0))


def _ours(before: list[int], after: list[int], kernel: list[int]) -> bool:
    """Whether PyTorch's own padding does: the same on both sides, at most half the window."""
    return before == after and all(2 * low <= size for low, size in zip(before, kernel, strict=True))


@operator("MaxPool")
def max_pool(call: Call) -> Value:
    """Without indices."""
    if len(call.node.outputs) > 1 and call.node.outputs[1] and call.builder.times_read(call.node.outputs[1]):
        call.refuse("also returns indices")
    kernel, strides, dilations, before, after, ceil = _window(call)
    value = call[0]
    if not _ours(before, after, kernel):
        value, before = padded(call, value, before, after, float("-inf")), [0] * len(kernel)
    return call.apply(_MAX[len(kernel)], value, kernel, strides, before, dilations, ceil)


@operator("AveragePool")
def average_pool(call: Call) -> Value:
    """With padding that counts, or does not."""
    kernel, strides, dilations, before, after, ceil = _window(call)
    count, counted, function = len(kernel), bool(call.attribute("count_include_pad", 0)), _AVERAGE[len(kernel)]
    if any(step != 1 for step in dilations):
        call.refuse("is dilated")
    if _ours(before, after, kernel):
        return call.apply(function, call[0], kernel, strides, before, ceil, counted)
    if ceil:
        call.refuse("rounds sizes up and pads one side more than the other")
    none = [0] * count
    summed = call.apply(function, padded(call, call[0], before, after), kernel, strides, none, False, True)
    if counted:
        return summed
    spatial = [1, 1, *(size for size in call[0].example.shape[2:])]
    pads = [size for low, high in zip(reversed(before), reversed(after), strict=True) for size in (low, high)]
    share = function(functional.pad(torch.ones(spatial), pads), kernel, strides, none, False, True)
    return call.apply(torch.div, summed, Value((share,) * len(call.builder.batches)))


@operator("GlobalAveragePool")
def global_average_pool(call: Call) -> Value:
    """To one value a channel."""
    return _global(call, _ADAPTIVE)


@operator("GlobalMaxPool")
def global_max_pool(call: Call) -> Value:
    """To one value a channel."""
    return _global(call, _ADAPTIVE_MAX)


def _global(call: Call, functions: dict[int, Any]) -> Value:
    count = call[0].rank - 2
    if count not in functions:
        call.refuse(f"pools over {count} dimensions")
    return call.apply(functions[count], call[0], 1 if count == 1 else (1,) * count)


@operator("LpPool", "GlobalLpPool")
def lp_pool(call: Call) -> Value:
    """The p-norm of every window."""
    power = float(call.attribute("p", 2))
    if call.node.op == "GlobalLpPool":
        return call.apply(torch.linalg.vector_norm, call[0], power, tuple(range(2, call[0].rank)), True)
    kernel, strides, dilations, before, after, ceil = _window(call)
    if any(step != 1 for step in dilations) or ceil or any(before) or any(after):
        call.refuse("is dilated, padded or rounds sizes up")
    area = 1
    for size in kernel:
        area *= size
    mean = call.apply(_AVERAGE[len(kernel)], call.apply(_powered, call[0], power), kernel, strides)
    return call.apply(_root, mean, area, power)


def _powered(value: Tensor, power: float) -> Tensor:
    return value.abs() ** power


def _root(value: Tensor, area: int, power: float) -> Tensor:
    return (value * area) ** (1.0 / power)
