"""Pooling and resampling: space changes, channels stay."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from edgeprune.graph.flow import Flow, name_of, place_of, shape_of
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
    aten.upsample_bicubic2d.default,
    aten.upsample_nearest1d.vec,
    aten.upsample_nearest1d.default,
    aten.upsample_nearest3d.vec,
    aten.upsample_linear1d.vec,
    aten.upsample_trilinear3d.vec,
    aten._upsample_bilinear2d_aa.vec,
    aten._upsample_bicubic2d_aa.vec,
    aten.adaptive_max_pool1d.default,
    aten.adaptive_max_pool3d.default,
    aten.max_pool2d_with_indices.default,
    aten.max_unpool2d.default,
    aten._upsample_nearest_exact1d.vec,
    aten._upsample_nearest_exact2d.vec,
    aten._upsample_nearest_exact3d.vec,
    aten.reflection_pad1d.default,
    aten.reflection_pad2d.default,
    aten.replication_pad1d.default,
    aten.replication_pad2d.default,
)
def pool(flow: Flow, node: fx.Node, x: Any, *rest: Any, **named: Any) -> Any:
    """Channels stand before the one, two or three dimensions that the operation is named for: (N, C, ...) or (C, ...)."""
    value = node.meta["val"]
    shape = shape_of(node) if isinstance(value, Tensor) else tuple(int(size) for size in value[0].shape)
    spatial = next(int(letter) for letter in name_of(node) if letter.isdigit())
    dim = max(len(shape) - spatial - 1, 0)
    vector = flow.vector(x, dim, f"{place_of(node)}: channels differ by position")
    labels = along(vector, shape, dim)
    return labels if isinstance(value, Tensor) else [labels, labels]


@rule(aten.grid_sampler.default, aten.grid_sampler_2d.default, aten.grid_sampler_3d.default)
def grid_sample(flow: Flow, node: fx.Node, x: Any, grid: Any, *rest: Any, **named: Any) -> Tensor:
    """Channels of ``x`` (dimension 1), read at the places that ``grid`` says."""
    flow.freeze(grid, f"{place_of(node)} uses it as a sampling grid")
    return along(flow.vector(x, 1, f"{place_of(node)}: channels differ by position"), shape_of(node), 1)


@rule(aten.im2col.default)
def unfold(flow: Flow, node: fx.Node, x: Any, window: list[int], *rest: Any, **named: Any) -> Tensor:
    """(N, C, H, W) to (N, C * window, places): every channel as often as the window has elements."""
    vector = flow.vector(x, 1, f"{place_of(node)}: channels differ by position")
    return along(vector.repeat_interleave(window[0] * window[1]), shape_of(node), 1)


@rule(aten.col2im.default)
def fold(flow: Flow, node: fx.Node, x: Any, size: list[int], window: list[int], *rest: Any, **named: Any) -> Tensor:
    """The reverse of :func:`unfold`."""
    vector = flow.vector(x, 1, f"{place_of(node)}: channels differ by position").reshape(-1, window[0] * window[1])
    flow.channels.unite(vector, vector[:, :1], f"{place_of(node)} adds fixed channels")
    return along(vector[:, 0], shape_of(node), 1)
