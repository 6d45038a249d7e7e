"""Attention as one operator (operator set 23)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from edgeprune.importers.onnx.builder import Call
from edgeprune.importers.onnx.registry import operator
from edgeprune.importers.onnx.values import Value


@operator("Attention", since=23)
def attention(call: Call) -> list[Value | None]:
    """Of heads apart, (N, heads, tokens, size), or side by side, (N, tokens, heads * size); without a cache of keys and values."""
    if call.optional(4) is not None or call.optional(5) is not None or call.attribute("softcap", 0.0):
        call.refuse("takes keys and values of the past, or caps its scores")
    if any(name and call.builder.times_read(name) for name in call.node.outputs[1:]):
        call.refuse("also returns keys, values or scores")
    values = [call[place] for place in range(3)]
    joined = values[0].rank == 3
    if joined:
        heads = [call.attribute("q_num_heads"), *[call.attribute("kv_num_heads")] * 2]
        values = [call.apply(_apart, value, count) for value, count in zip(values, heads, strict=True)]
    counts = [value.shape[1] for value in values]
    grouped = counts[0] != counts[1]
    made = call.apply(
        functional.scaled_dot_product_attention,
        *values,
        call.optional(3),
        0.0,
        bool(call.attribute("is_causal", 0)),
        scale=call.attribute("scale"),
        **({"enable_gqa": True} if grouped else {}),
    )
    return [call.apply(_together, made) if joined else made]


def _apart(value: Tensor, heads: int) -> Tensor:
    return value.reshape(*value.shape[:-1], heads, -1).transpose(1, 2)


def _together(value: Tensor) -> Tensor:
    return torch.flatten(value.transpose(1, 2), 2)
