"""Operations that converters lack (TFLite's, ExecuTorch's), said in ones that they know, on an ATen graph."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch.fx import GraphModule, Node

_ATEN: Any = torch.ops.aten
_ADAPTIVE_MAX = {
    _ATEN.adaptive_max_pool1d.default: _ATEN.max_pool1d.default,
    _ATEN.adaptive_max_pool2d.default: _ATEN.max_pool2d.default,
    _ATEN.adaptive_max_pool3d.default: _ATEN.max_pool3d.default,
}


def plain_max_pools(module: GraphModule) -> int:
    """Replace, in place, every adaptive max pool whose windows are all of one size, and whose indices nobody reads, by a max pool; returns
    how many."""
    replaced = 0
    for node in list(module.graph.nodes):
        window = _window(node)
        if window is None:
            continue
        with module.graph.inserting_before(node):
            pooled = module.graph.call_function(_ADAPTIVE_MAX[node.target], (node.args[0], window, window))
        for reader in list(node.users):
            if reader.users:
                pooled.meta = dict(reader.meta)
                reader.replace_all_uses_with(pooled)
            module.graph.erase_node(reader)
        module.graph.erase_node(node)
        replaced += 1
    if replaced:
        module.recompile()
    return replaced


def _window(node: Node) -> list[int] | None:
    """Size of the windows of an adaptive max pool that :func:`plain_max_pools` can replace; else None."""
    if node.target not in _ADAPTIVE_MAX or any(
        user.target is not operator.getitem or (user.args[1] != 0 and user.users) for user in node.users
    ):
        return None
    source, wanted = node.args[0], node.args[1]
    assert isinstance(source, Node) and isinstance(wanted, (list, tuple))
    sizes = list(source.meta["val"].shape[-len(wanted) :])
    if any(not isinstance(size, int) or size % int(part) for size, part in zip(sizes, wanted, strict=True)):
        return None
    return [size // int(part) for size, part in zip(sizes, wanted, strict=True)]
