"""Activation functions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeprune.importers.onnx.builder import Call
from edgeprune.importers.onnx.names import generic
from edgeprune.importers.onnx.registry import operator
from edgeprune.importers.onnx.values import Size, Value

_PLAIN: dict[str, Any] = {
    "Relu": torch.relu, "Sigmoid": torch.sigmoid, "Tanh": torch.tanh, "Softplus": functional.softplus, "Softsign": functional.softsign,
    "HardSwish": functional.hardswish, "Mish": functional.mish,
}  # fmt: skip


@operator(*_PLAIN)
def plain(call: Call) -> Value:
    """Without settings."""
    return call.apply(_PLAIN[call.node.op], call[0])


@operator("LeakyRelu")
def leaky_relu(call: Call) -> Value:
    """With a slope for negative values."""
    return call.apply(functional.leaky_relu, call[0], call.attribute("alpha", 0.01))


@operator("Elu")
def elu(call: Call) -> Value:
    """Exponential for negative values."""
    return call.apply(functional.elu, call[0], call.attribute("alpha", 1.0))


@operator("Celu")
def celu(call: Call) -> Value:
    """Continuously differentiable ELU."""
    return call.apply(functional.celu, call[0], call.attribute("alpha", 1.0))


@operator("Selu")
def selu(call: Call) -> Value:
    """With its usual constants as PyTorch's own, with others spelled out."""
    alpha, gamma = call.attribute("alpha", 1.67326319217681884765625), call.attribute("gamma", 1.05070102214813232421875)
    if abs(alpha - 1.6732632) < 1e-5 and abs(gamma - 1.050701) < 1e-5:
        return call.apply(functional.selu, call[0])
    return call.apply(torch.mul, call.apply(functional.elu, call[0], alpha), gamma)


@operator("ThresholdedRelu")
def thresholded_relu(call: Call) -> Value:
    """Zero up to a threshold."""
    return call.apply(functional.threshold, call[0], call.attribute("alpha", 1.0), 0.0)


@operator("HardSigmoid")
def hard_sigmoid(call: Call) -> Value:
    """max(0, min(1, alpha * x + beta)); PyTorch's own has a slope of 1/6."""
    alpha, beta = call.attribute("alpha", 0.2), call.attribute("beta", 0.5)
    if abs(alpha - 1 / 6) < 1e-7 and beta == 0.5:
        return call.apply(functional.hardsigmoid, call[0])
    return call.apply(torch.clamp, call.apply(torch.add, call.apply(torch.mul, call[0], alpha), beta), 0.0, 1.0)


@operator("Gelu")
def gelu(call: Call) -> Value:
    """Exact, or by tanh."""
    return call.apply(functional.gelu, call[0], approximate=call.attribute("approximate", "none"))


@operator("Swish")
def swish(call: Call) -> Value:
    """x * sigmoid(alpha * x)."""
    if call.attribute("alpha", 1.0) == 1.0:
        return call.apply(functional.silu, call[0])
    return call.apply(torch.mul, call[0], call.apply(torch.sigmoid, call.apply(torch.mul, call[0], call.attribute("alpha"))))


@operator("Shrink")
def shrink(call: Call) -> Value:
    """Towards zero."""
    return call.apply(_shrink, call[0], call.attribute("lambd", 0.5), call.attribute("bias", 0.0))


def _shrink(value: Tensor, limit: float, bias: float) -> Tensor:
    return torch.where(value < -limit, value + bias, torch.where(value > limit, value - bias, torch.zeros_like(value)))


@operator("PRelu")
def prelu(call: Call) -> Value:
    """A layer where the slopes are one, or one a channel."""
    slope, value = call[1].fixed, call[0]
    if slope is not None and value.rank >= 2 and not generic(call[1].source) | (slope.dim() > value.rank):
        channels = value.shape[1]
        per_channel = slope.dim() == value.rank - 1 and slope.numel() == slope.shape[0] == channels
        if slope.numel() == 1 or per_channel:
            module = nn.PReLU(slope.numel())
            module.weight = nn.Parameter(slope.detach().reshape(-1).clone())
            return call.layer(module, value)
    return call.apply(_prelu, value, call[1])


def _prelu(value: Tensor, slope: Tensor) -> Tensor:
    return torch.where(value >= 0, value, value * slope)


@operator("Softmax", "LogSoftmax", "Hardmax", since=13)
def softmax(call: Call) -> Value:
    """Along one dimension."""
    return _along(call, call[0], call.attribute("axis", -1))


@operator("Softmax", "LogSoftmax", "Hardmax", until=12)
def softmax_of_rows(call: Call) -> Value:
    """Along all dimensions from ``axis`` on as one."""
    value, axis = call[0], call.attribute("axis", 1) % max(call[0].rank, 1)
    if all(size == 1 for size in value.shape[axis + 1 :]):
        return _along(call, value, axis)
    if axis == value.rank - 1:
        return _along(call, value, axis)
    shape = list(value.shape)
    flat = _along(call, call.apply(torch.flatten, value, axis), axis)
    return call.apply(torch.unflatten, flat, axis, [-1 if isinstance(size, Size) else size for size in shape[axis:]])


def _along(call: Call, value: Value, axis: int) -> Value:
    if call.node.op == "Hardmax":
        return call.apply(_hardmax, value, axis)
    return call.apply(functional.softmax if call.node.op == "Softmax" else functional.log_softmax, value, dim=axis)


def _hardmax(value: Tensor, dim: int) -> Tensor:
    return functional.one_hot(value.argmax(dim), value.shape[dim]).movedim(-1, dim).to(value.dtype)
