"""Products of matrices."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeprune.importers.onnx.builder import Call
from edgeprune.importers.onnx.operators.elementwise import both
from edgeprune.importers.onnx.registry import operator
from edgeprune.importers.onnx.values import Value


def linear(call: Call, value: Value, weight: Tensor, bias: Tensor | None) -> Value:
    """A layer of ``weight`` (out, in)."""
    module = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
    module.weight = nn.Parameter(weight.detach().clone().contiguous())
    if bias is not None:
        module.bias = nn.Parameter(bias.detach().clone().contiguous())
    return call.layer(module, value)


@operator("MatMul")
def matmul(call: Call) -> Value:
    """A layer where the second factor is a stored matrix."""
    weight = call[1].fixed
    if weight is not None and weight.dim() == 2 and weight.is_floating_point() and not call[0].constant and call[0].rank >= 2:
        return linear(call, call[0], weight.T, None)
    return call.apply(torch.matmul, call[0], call[1])


@operator("Gemm")
def gemm(call: Call) -> Value:
    """A layer where the second factor is stored; ``alpha`` and ``beta`` are then in the weights."""
    alpha, beta = call.attribute("alpha", 1.0), call.attribute("beta", 1.0)
    value = call.apply(torch.t, call[0]) if call.attribute("transA", 0) else call[0]
    bias, addend = _bias(call, beta)
    weight = call[1].fixed
    if weight is not None and not value.constant:
        stored = weight if call.attribute("transB", 0) else weight.T
        made = linear(call, value, stored if alpha == 1.0 else stored * alpha, bias)
        bias = None
    else:
        other = call.apply(torch.t, call[1]) if call.attribute("transB", 0) else call[1]
        made = call.apply(torch.matmul, value, other)
        made = made if alpha == 1.0 else call.apply(torch.mul, made, alpha)
        if bias is not None:
            addend = Value((bias,) * len(call.builder.batches), None, call[2].source)
    if addend is None:
        return made
    return both(call, torch.add, made, addend)


def _bias(call: Call, beta: float) -> tuple[Tensor | None, Value | None]:
    """What is added, as a bias of every output or as a value."""
    given = call.optional(2)
    if given is None:
        return None, None
    columns = call[1].example.shape[0 if call.attribute("transB", 0) else 1]
    fixed = given.fixed
    if fixed is not None and (fixed.dim() <= 1 or fixed.shape[0] == 1) and fixed.numel() in (1, columns):
        return fixed.reshape(-1).expand(columns).clone() * beta, None
    return None, given if beta == 1.0 else call.apply(torch.mul, given, beta)


@operator("Einsum")
def einsum(call: Call) -> Value:
    """A sum of products over named dimensions."""
    equation = call.attribute("equation").replace(" ", "")
    return call.apply(torch.einsum, equation, *(call[place] for place in range(len(call))))


@operator("Det")
def det(call: Call) -> Value:
    """Determinants."""
    return call.apply(torch.linalg.det, call[0])
