"""Arithmetic, comparisons and functions of single elements."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from edgeprune.importers.onnx.builder import Call
from edgeprune.importers.onnx.operators.absorb import into_layer
from edgeprune.importers.onnx.reader import dtype_of
from edgeprune.importers.onnx.registry import operator
from edgeprune.importers.onnx.values import Value

UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs, "Acos": torch.acos, "Acosh": torch.acosh, "Asin": torch.asin, "Asinh": torch.asinh, "Atan": torch.atan,
    "Atanh": torch.atanh, "Ceil": torch.ceil, "Cos": torch.cos, "Cosh": torch.cosh, "Erf": torch.erf, "Exp": torch.exp,
    "Floor": torch.floor, "IsNaN": torch.isnan, "Log": torch.log, "Neg": torch.neg, "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal, "Round": torch.round, "Sign": torch.sign, "Sin": torch.sin, "Sinh": torch.sinh, "Sqrt": torch.sqrt,
    "Tan": torch.tan, "BitwiseNot": torch.bitwise_not,
}  # fmt: skip

BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Mul": torch.mul, "Sub": torch.sub, "And": torch.logical_and, "Or": torch.logical_or, "Xor": torch.logical_xor,
    "Equal": torch.eq, "Greater": torch.gt, "GreaterOrEqual": torch.ge, "Less": torch.lt, "LessOrEqual": torch.le,
    "BitwiseAnd": torch.bitwise_and, "BitwiseOr": torch.bitwise_or, "BitwiseXor": torch.bitwise_xor,
}  # fmt: skip


@operator(*UNARY)
def unary(call: Call) -> Value:
    """Of one tensor."""
    return call.apply(UNARY[call.node.op], call[0])


def number(value: Value, other: Value) -> Any:
    """A constant of one element as a number, where that broadcasts the same; else the value."""
    fixed = value.fixed
    if fixed is None or fixed.numel() != 1 or fixed.dim() > other.rank or other.constant or value.dtype != other.dtype:
        return value
    return fixed.item()


def both(call: Call, function: Callable[..., Tensor], one: Value, other: Value) -> Value:
    """``function`` of two tensors that broadcast, a constant of one element as a number."""
    second = number(other, one)
    if second is not other:
        return call.apply(function, one, second)
    return call.apply(function, one, other)


@operator(*BINARY)
def binary(call: Call) -> Value:
    """Of two tensors that broadcast."""
    one, other, name = call[0], call[1], call.node.op
    if name in ("Mul", "Equal") and one.constant and not other.constant:
        one, other = other, one
    if name in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual") and one.dtype == torch.bool:
        return call.apply(BINARY[name], one, other)
    return both(call, BINARY[name], one, other)


@operator("Add")
def add(call: Call) -> Value:
    """A constant that is added for every channel becomes the bias of the layer before, where that has none."""
    one, other = (call[0], call[1]) if not call[0].constant else (call[1], call[0])
    absorbed = into_layer(call, one, other, call[0] is one)
    return absorbed if absorbed is not None else both(call, torch.add, one, other)


@operator("Div")
def div(call: Call) -> Value:
    """Of integers: towards zero."""
    if call[0].floating:
        return both(call, torch.div, call[0], call[1])
    return call.apply(torch.div, call[0], call[1], rounding_mode="trunc")


@operator("Mod")
def mod(call: Call) -> Value:
    """With the sign of the divisor, or (``fmod``) of the dividend."""
    return call.apply(torch.fmod if call.attribute("fmod", 0) else torch.remainder, call[0], call[1])


@operator("Pow")
def power(call: Call) -> Value:
    """The result has the type of the base."""
    exponent = call[1].fixed
    if exponent is not None and exponent.numel() == 1 and exponent.dim() <= call[0].rank and call[0].floating:
        raised = float(exponent.flatten()[0])
        return call.apply(torch.pow, call[0], int(raised) if raised.is_integer() else raised)
    return call.apply(_power, call[0], call[1])


def _power(base: Tensor, exponent: Tensor) -> Tensor:
    return torch.pow(base, exponent).to(base.dtype)


@operator("BitShift")
def bit_shift(call: Call) -> Value:
    """Left or right."""
    left = call.attribute("direction") == "LEFT"
    return call.apply(torch.bitwise_left_shift if left else torch.bitwise_right_shift, call[0], call[1])


@operator("Min", "Max", "Sum", "Mean")
def variadic(call: Call) -> Value:
    """Of any number of tensors."""
    functions: dict[str, Callable[..., Any]] = {"Min": torch.minimum, "Max": torch.maximum, "Sum": torch.add, "Mean": torch.add}
    values = [call[place] for place in range(len(call))]
    found = reduce(lambda one, other: call.apply(functions[call.node.op], one, other), values)
    return call.apply(torch.div, found, len(values)) if call.node.op == "Mean" else found


@operator("Where")
def where(call: Call) -> Value:
    """By a condition."""
    return call.apply(torch.where, call[0], call[1], call[2])


@operator("Clip", until=10)
def clip_by_attributes(call: Call) -> Value:
    """Between two numbers."""
    return _clip(call, call.attribute("min"), call.attribute("max"))


@operator("Clip", since=11)
def clip(call: Call) -> Value:
    """Between two numbers, either of which may lack."""
    return _clip(call, call.number(1, "a lower limit"), call.number(2, "an upper limit"))


def _clip(call: Call, low: float | None, high: float | None) -> Value:
    low = None if low is None or low <= -3.4e38 else low
    high = None if high is None or high >= 3.4e38 else high
    if not call[0].floating:
        return call.apply(torch.clamp, call[0], None if low is None else int(low), None if high is None else int(high))
    if (low, high) == (0.0, 6.0):
        return call.apply(nn.functional.relu6, call[0])
    if low == 0.0 and high is None:
        return call.apply(torch.relu, call[0])
    return call[0] if low is None and high is None else call.apply(torch.clamp, call[0], low, high)


@operator("Cast")
def cast(call: Call) -> Value:
    """To another type; half precision is float32 here."""
    return _cast(call, dtype_of(call.attribute("to"), call.node.label))


@operator("CastLike")
def cast_like(call: Call) -> Value:
    """To the type of another tensor."""
    return _cast(call, call[1].dtype)


def _cast(call: Call, wanted: torch.dtype) -> Value:
    return call[0] if call[0].dtype == wanted else call.apply(_to, call[0], wanted)


def _to(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value.to(dtype)


@operator("Identity", "Dropout")
def identity(call: Call) -> list[Value | None]:
    """Inference drops nothing."""
    mask = call.node.outputs[1] if len(call.node.outputs) > 1 else ""
    return [call[0], call.apply(torch.ones_like, call[0], dtype=torch.bool) if mask and call.builder.times_read(mask) else None]


@operator("IsInf")
def is_inf(call: Call) -> Value:
    """Of either sign."""
    if not (call.attribute("detect_negative", 1) and call.attribute("detect_positive", 1)):
        return call.apply(torch.isposinf if call.attribute("detect_positive", 1) else torch.isneginf, call[0])
    return call.apply(torch.isinf, call[0])


@operator("CumSum")
def cumsum(call: Call) -> Value:
    """Along a dimension; neither backwards nor exclusive of the element itself."""
    if call.attribute("exclusive", 0) or call.attribute("reverse", 0):
        call.refuse("sums backwards, or without the element itself")
    return call.apply(torch.cumsum, call[0], int(call.fixed(1, "an axis").flatten()[0]))
