"""Pooling and resampling: space changes, channels stay."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from edgeprune.graph.flow import Flow, shape_of
from edgeprune.graph.labels import along
from edgeprune.graph.registry import rule

aten = torch.ops.aten


@rule(
    aten.max_pool1d.default,
    aten.max_pool2d.default,
    aten.max_pool3d.default,
    aten.avg_pool1d.default,
    aten.avg_pool2d.default,
    aten.avg_pool3d.default,
    aten.adaptive_avg_pool1d.default,
    aten.adaptive_avg_pool2d.default,
    aten.adaptive_avg_pool3d.default,
    aten.adaptive_max_pool2d.default,
    aten.upsample_nearest2d.vec,
    aten.upsample_nearest2d.default,
    aten.upsample_bilinear2d.vec,
    aten.upsample_bilinear2d.default,
    aten.upsample_bicubic2d.vec,
)
def pool(flow: Flow, node: fx.Node, x: Any, *rest: Any, **named: Any) -> Any:
    """Channels are dimension 1 of (N, C, ...)."""
    value = node.meta["val"]
    shape = shape_of(node) if isinstance(value, Tensor) else tuple(int(size) for size in value[0].shape)
    vector = flow.vector(x, 1, f"pooling {node.name}: channels change along space")
    labels = along(vector, shape, 1)
    return labels if isinstance(value, Tensor) else [labels, labels]
