"""Strided slices of feature maps said as depthwise convolutions, on an ATen graph.

TFLite has no fast kernel for a slice with a stride: it leaves the delegate for a reference loop. On x86-64 the two slices of a
zero-padding shortcut (32 x 32 x 16, stride 2) take 40 microseconds, and 2.6 as 1 x 1 depthwise convolutions with weights of one, which
compute the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node

_ATEN: Any = torch.ops.aten
_IMAGES = frozenset({
    _ATEN.conv2d.default, _ATEN.conv2d.padding, _ATEN.batch_norm.default, _ATEN.max_pool2d.default, _ATEN.avg_pool2d.default,
    _ATEN.adaptive_avg_pool2d.default,
})  # fmt: skip
"""Operations whose result is laid out as (N, C, H, W)."""
_ELEMENTWISE = frozenset({
    _ATEN.slice.Tensor, _ATEN.relu.default, _ATEN.relu_.default, _ATEN.hardtanh.default, _ATEN.hardtanh_.default, _ATEN.relu6.default,
    _ATEN.add.Tensor, _ATEN.add_.Tensor, _ATEN.mul.Tensor, _ATEN.mul_.Tensor, _ATEN.silu.default, _ATEN.silu_.default,
    _ATEN.hardswish.default, _ATEN.hardswish_.default,
})  # fmt: skip


def subsample_by_convolution(module: GraphModule) -> int:
    """Replace, in place, every slice that takes each n-th row or column of a float32 feature map, from the first on, by a depthwise
    convolution; returns how many."""
    replaced = 0
    for node in list(module.graph.nodes):
        stride = _stride(node)
        if stride is None:
            continue
        source: Any = node.args[0]
        channels, name = source.meta["val"].shape[1], f"subsample_{replaced}_weight"
        module.register_parameter(name, nn.Parameter(torch.ones(channels, 1, 1, 1), requires_grad=False))
        with module.graph.inserting_before(node):
            weight = module.graph.get_attr(name)
            weight.meta["val"] = getattr(module, name).detach()
            made = module.graph.call_function(_ATEN.conv2d.default, (source, weight, None, stride, [0, 0], [1, 1], channels))
        made.meta = dict(node.meta)
        node.replace_all_uses_with(made)
        module.graph.erase_node(node)
        replaced += 1
    if replaced:
        module.recompile()
    return replaced


def _stride(node: Node) -> list[int] | None:
    """The stride (down, right) of a slice that :func:`subsample_by_convolution` can replace; else None."""
    if node.target is not _ATEN.slice.Tensor or node.kwargs:
        return None
    arguments: list[Any] = [*node.args]
    source, dim, start, end, step = arguments + [None, 0, None, None, 1][len(arguments) :]
    value = source.meta.get("val") if isinstance(source, Node) else None
    if value is None or value.dim() != 4 or value.dtype != torch.float32 or not isinstance(step, int) or step < 2 or not _is_image(source):
        return None
    dim %= 4
    if dim < 2 or start not in (None, 0) or (end is not None and end < value.shape[dim]):
        return None
    return [step, 1] if dim == 2 else [1, step]


def _is_image(node: Any) -> bool:
    while isinstance(node, Node) and node.target in _ELEMENTWISE:
        node = node.args[0]
    return isinstance(node, Node) and node.target in _IMAGES
