"""Slices that take each n-th row or column of a feature map: what exporters write as convolutions, and the device table measures so."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

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


def subsampling(node: Node) -> tuple[int, int] | None:
    """The stride (down, right) of a slice along H or W of a float32 feature map, from the first row or column to the last, whose memory is
    not written to later; None for all else."""
    if node.target is not _ATEN.slice.Tensor or node.kwargs:
        return None
    arguments: list[Any] = [*node.args]
    source, dim, start, end, step = arguments + [None, 0, None, None, 1][len(arguments) :]
    value = source.meta.get("val") if isinstance(source, Node) else None
    if not isinstance(value, torch.Tensor) or value.dim() != 4 or value.dtype != torch.float32 or not isinstance(step, int) or step < 2:
        return None
    dim %= 4
    size = value.shape[dim]
    if dim < 2 or not isinstance(size, int) or start not in (None, 0) or not (end is None or (isinstance(end, int) and end >= size)):
        return None
    if not _is_image(source) or _written_later(node):
        return None
    return (step, 1) if dim == 2 else (1, step)


def _is_image(node: Any) -> bool:
    while isinstance(node, Node) and node.target in _ELEMENTWISE:
        node = node.args[0]
    return isinstance(node, Node) and node.target in _IMAGES


def _written_later(node: Node) -> bool:
    """Whether an operation after ``node`` writes to the memory that it is a view of."""
    memory, after = _memory(node), node.next
    while after.op != "root":
        schema = getattr(after.target, "_schema", None)
        if schema is not None and schema.is_mutable and after.args and _memory(after.args[0]) is memory:
            return True
        after = after.next
    return False


def _memory(node: Any) -> Any:
    """The node that made the memory of ``node``'s value."""
    while isinstance(node, Node):
        schema = getattr(node.target, "_schema", None)
        if schema is None or not node.args or not any(value.alias_info for value in schema.returns):
            break
        node = node.args[0]
    return node
