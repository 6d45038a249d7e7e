"""Tensors filled with one value: as wide as what they meet."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from edgeprune.graph.flow import Flow, name_of, place_of, shape_of
from edgeprune.graph.labels import along, no_labels
from edgeprune.graph.nodes import argument
from edgeprune.graph.registry import rewriter, rule

aten = torch.ops.aten
FILLED = (aten.zeros.default, aten.ones.default, aten.full.default, aten.new_zeros.default, aten.new_ones.default, aten.new_full.default)
DRAWN = (aten.rand.default, aten.randn.default, aten.empty.memory_format, aten.new_empty.default)
"""Random numbers, or room for them: what they meet decides which of them are left."""

MEETING = (
    "lstm",
    "gru",
    "rnn_tanh",
    "rnn_relu",
    "cat",
    "add",
    "mul",
    "lstm_cell",
    "gru_cell",
    "rnn_tanh_cell",
    "rnn_relu_cell",
    "expand",
    "matmul",
    "linear",
)
"""Operations where a filled tensor takes part as one more channel, or as the channels that it meets."""


@rule(*FILLED)
def filled(flow: Flow, node: fx.Node, *args: Any, **named: Any) -> Tensor:
    """Channels of its own, which no parameter holds."""
    shape = shape_of(node)
    free = bool(shape) and all(name_of(user) in MEETING for user in node.users)
    sizes = [size if isinstance(size, int) else 1 for size in node.meta["val"].shape]  # one for the whole batch
    if not free or torch.Size(sizes).numel() > 1 << 16:
        return no_labels(shape)
    if len(shape) >= 4:  # images: constant over space
        return along(flow.channels.fresh((shape[1],)), shape, 1)
    return flow.channels.fresh(sizes).expand(shape)


@rule(*DRAWN)
def drawn(flow: Flow, node: fx.Node, *args: Any, **named: Any) -> Tensor:
    """Channels of its own, the same for every sample; those of images are the same at every place."""
    shape = shape_of(node)
    sizes = [size if isinstance(size, int) else 1 for size in node.meta["val"].shape]
    if len(shape) >= 4:
        return along(flow.channels.fresh((shape[1],)), shape, 1) if shape[1] > 1 else no_labels(shape)
    if not 1 < torch.Size(sizes).numel() <= 1 << 16:
        return no_labels(shape)
    return flow.channels.fresh(sizes).expand(shape)


@rewriter(*FILLED, *DRAWN)
def refill(cut: Any, node: fx.Node) -> None:
    """As large as what is left of it."""
    place = 1 if name_of(node).startswith("new_") else 0
    old, new = cut.old_shape(node), cut.new_shape(node)
    node.update_arg(place, cut.resized(node, list(argument(node, place)), old, new))


@rule(aten.meshgrid.default, aten.meshgrid.indexing)
def meshgrid(flow: Flow, node: fx.Node, tensors: list[Any], **named: Any) -> list[Tensor]:
    """Coordinates: no channels."""
    for value in tensors:
        flow.freeze(value, f"{place_of(node)} builds coordinates from it")
    return [no_labels([int(size) for size in part.shape]) for part in node.meta["val"]]
