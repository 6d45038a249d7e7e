"""Sums, means and extremes over dimensions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from edgeprune.importers.onnx.builder import Call
from edgeprune.importers.onnx.registry import operator
from edgeprune.importers.onnx.values import Value

Reduce = Callable[[Tensor, tuple[int, ...], bool], Tensor]


def _norm(value: Tensor, dims: tuple[int, ...], keep: bool) -> Tensor:
    found: Tensor = torch.linalg.vector_norm(value, 2, dims, keep)
    return found


def _absolute(value: Tensor, dims: tuple[int, ...], keep: bool) -> Tensor:
    return torch.sum(value.abs(), dims, keep)


def _squares(value: Tensor, dims: tuple[int, ...], keep: bool) -> Tensor:
    return torch.sum(value * value, dims, keep)


def _log_sum(value: Tensor, dims: tuple[int, ...], keep: bool) -> Tensor:
    return torch.log(torch.sum(value, dims, keep))


def _product(value: Tensor, dims: tuple[int, ...], keep: bool) -> Tensor:
    for dim in sorted((dim % value.dim() for dim in dims), reverse=True):
        value = torch.prod(value, dim, keep)
    return value


def _sum(value: Tensor, dims: tuple[int, ...], keep: bool) -> Tensor:
    return torch.sum(value, dims, keep, dtype=value.dtype)


_FUNCTIONS: dict[str, Any] = {
    "ReduceSum": _sum, "ReduceMean": torch.mean, "ReduceMax": torch.amax, "ReduceMin": torch.amin, "ReduceProd": _product,
    "ReduceL1": _absolute, "ReduceL2": _norm, "ReduceSumSquare": _squares, "ReduceLogSum": _log_sum, "ReduceLogSumExp": torch.logsumexp,
}  # fmt: skip


@operator(*_FUNCTIONS)
def reduce(call: Call) -> Value:
    """Over the dimensions that are an attribute, or the second input in newer operator sets."""
    axes = call.given("axes", 1)
    if not axes:
        if call.attribute("noop_with_empty_axes", 0):
            return call[0]
        axes = list(range(call[0].rank))
    if not axes:
        return call[0]
    function = torch.sum if call.node.op == "ReduceSum" and call[0].floating else _FUNCTIONS[call.node.op]
    return call.apply(function, call[0], tuple(int(axis) for axis in axes), bool(call.attribute("keepdims", 1)))


@operator("ArgMax", "ArgMin")
def arg(call: Call) -> Value:
    """The place of the greatest or least; of equals the first."""
    if call.attribute("select_last_index", 0):
        call.refuse("takes the last of equals")
    function = torch.argmax if call.node.op == "ArgMax" else torch.argmin
    return call.apply(function, call[0], call.attribute("axis", 0), bool(call.attribute("keepdims", 1)))


@operator("TopK")
def top_k(call: Call) -> list[Value]:
    """The greatest or least k, sorted."""
    count = call.attribute("k")
    if count is None:
        count = call.integers(call[1], "the count")[0]
    found = call.apply(torch.topk, call[0], count, call.attribute("axis", -1), bool(call.attribute("largest", 1)))
    return call.parts(found, 2)
