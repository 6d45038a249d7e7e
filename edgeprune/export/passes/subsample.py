"""Strided slices of feature maps said as depthwise convolutions, on an ATen graph.

TFLite has no fast kernel for a slice with a stride: it leaves the delegate for a reference loop. On x86-64 the two slices of a
zero-padding shortcut (32 x 32 x 16, stride 2) take 40 microseconds, and 2.6 as 1 x 1 depthwise convolutions with weights of one, which
compute the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule

from edgeprune.graph.subsampling import subsampling

_ATEN: Any = torch.ops.aten


def subsample_by_convolution(module: GraphModule) -> int:
    """Replace, in place, every slice that takes each n-th row or column of a float32 feature map, from the first on, by a depthwise
    convolution; returns how many."""
    strides = {node: stride for node in module.graph.nodes if (stride := subsampling(node))}
    for replaced, (node, stride) in enumerate(strides.items()):
        source: Any = node.args[0]
        channels, name = source.meta["val"].shape[1], f"subsample_{replaced}_weight"
        module.register_parameter(name, nn.Parameter(torch.ones(channels, 1, 1, 1), requires_grad=False))
        with module.graph.inserting_before(node):
            weight = module.graph.get_attr(name)
            weight.meta["val"] = getattr(module, name).detach()
            made = module.graph.call_function(_ATEN.conv2d.default, (source, weight, None, [*stride], [0, 0], [1, 1], channels))
        made.meta = dict(node.meta)
        node.replace_all_uses_with(made)
        module.graph.erase_node(node)
    if strides:
        module.recompile()
    return len(strides)
