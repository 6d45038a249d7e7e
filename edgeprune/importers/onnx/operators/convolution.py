"""Convolutions, and the padding that they share with pooling."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from edgeprune.importers.onnx.builder import Call
from edgeprune.importers.onnx.registry import operator
from edgeprune.importers.onnx.values import Size, Value

CONVOLUTIONS: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, type[nn.Module]] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_FUNCTIONS: dict[int, Any] = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


def padding(call: Call, value: Value, kernel: list[int], strides: list[int], dilations: list[int]) -> tuple[list[int], list[int]]:
    """Zeros before and after along every spatial dimension, as ``pads`` or ``auto_pad`` say."""
    count, how = len(kernel), call.attribute("auto_pad", "NOTSET")
    if how in ("NOTSET", ""):
        pads = call.attribute("pads", [0] * 2 * count)
        return list(pads[:count]), list(pads[count:])
    if how == "VALID":
        return [0] * count, [0] * count
    before, after = [], []
    for place in range(count):
        size = value.shape[2 + place]
        if isinstance(size, Size):
            call.refuse("pads along a dimension that follows the batch size")
        span = (kernel[place] - 1) * dilations[place] + 1
        total = max(0, (-(-size // strides[place]) - 1) * strides[place] + span - size)
        low = total // 2 if how == "SAME_UPPER" else total - total // 2
        before.append(low)
        after.append(total - low)
    return before, after


def padded(call: Call, value: Value, before: list[int], after: list[int], fill: float = 0.0) -> Value:
    """``value`` with a constant around its spatial dimensions."""
    pads = [size for low, high in zip(reversed(before), reversed(after), strict=True) for size in (low, high)]
    return call.apply(functional.pad, value, pads, "constant", fill)


def cropped(call: Call, value: Value, before: list[int], after: list[int]) -> Value:
    """``value`` without the edges of its spatial dimensions."""
    for place, (low, high) in enumerate(zip(before, after, strict=True)):
        size = value.shape[2 + place]
        assert isinstance(size, int)
        if low or high:
            value = call.apply(_narrow, value, 2 + place, low, size - low - high)
    return value


def _narrow(value: Tensor, dim: int, start: int, length: int) -> Tensor:
    return value.narrow(dim, start, length)


@operator("Conv")
def conv(call: Call) -> Value:
    """A layer where its weights are stored."""
    value, weight = call[0], call[1]
    count = weight.rank - 2
    if count not in CONVOLUTIONS:
        call.refuse(f"is a convolution over {count} dimensions")
    kernel = list(weight.example.shape[2:])
    strides, dilations = call.attribute("strides", [1] * count), call.attribute("dilations", [1] * count)
    groups = call.attribute("group", 1)
    before, after = padding(call, value, kernel, strides, dilations)
    pads = before
    if before != after:
        value, pads = padded(call, value, before, after), [0] * count
    bias = call.optional(2)
    if weight.fixed is None or (bias is not None and bias.fixed is None):
        return call.apply(_FUNCTIONS[count], value, weight, bias, strides, pads, dilations, groups)
    stored = weight.fixed
    module = CONVOLUTIONS[count](stored.shape[1] * groups, stored.shape[0], kernel, strides, pads, dilations, groups, bias is not None)
    _fill(module, stored, bias)
    return call.layer(module, value)


@operator("ConvTranspose")
def conv_transpose(call: Call) -> Value:
    """A layer; other padding on one side than on the other is cut off afterwards."""
    value, weight = call[0], call[1]
    count = weight.rank - 2
    if count not in TRANSPOSED:
        call.refuse(f"is a convolution over {count} dimensions")
    stored, bias = call.fixed(1, "a weight"), call.optional(2)
    if bias is not None:
        call.fixed(2, "a bias")
    strides, dilations = call.attribute("strides", [1] * count), call.attribute("dilations", [1] * count)
    extra, groups = call.attribute("output_padding", [0] * count), call.attribute("group", 1)
    before, after = _transposed_padding(call, value, list(stored.shape[2:]), strides, dilations, extra)
    same = before == after and min(before) >= 0
    shape, pads = list(stored.shape[2:]), before if same else [0] * count
    module = TRANSPOSED[count](stored.shape[0], stored.shape[1] * groups, shape, strides, pads, extra, groups, bias is not None, dilations)
    _fill(module, stored, bias)
    made = call.layer(module, value)
    return made if same else cropped(call, made, before, after)


def _transposed_padding(
    call: Call, value: Value, kernel: list[int], strides: list[int], dilations: list[int], extra: list[int]
) -> tuple[list[int], list[int]]:
    count, how = len(kernel), call.attribute("auto_pad", "NOTSET")
    wanted = call.attribute("output_shape")
    if wanted is None and how in ("NOTSET", "", "VALID"):
        pads = call.attribute("pads", [0] * 2 * count) if how != "VALID" else [0] * 2 * count
        return list(pads[:count]), list(pads[count:])
    before, after = [], []
    for place in range(count):
        size = value.shape[2 + place]
        assert isinstance(size, int)
        out = wanted[-count:][place] if wanted is not None else size * strides[place]
        total = (size - 1) * strides[place] + extra[place] + (kernel[place] - 1) * dilations[place] + 1 - out
        low = total // 2 if how != "SAME_LOWER" else total - total // 2
        if how in ("NOTSET", ""):
            low = total - total // 2
        before.append(low)
        after.append(total - low)
    return before, after


def _fill(module: nn.Module, weight: Tensor, bias: Value | None) -> None:
    module.weight = nn.Parameter(weight.detach().clone())
    if bias is not None and bias.fixed is not None:
        module.bias = nn.Parameter(bias.fixed.detach().clone())
