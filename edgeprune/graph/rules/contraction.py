"""Convolutions: the input's channels end, the output's begin."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from edgeprune.graph.constants import without_input
from edgeprune.graph.flow import Flow, ParamView, place_of, shape_of
from edgeprune.graph.labels import along, no_labels
from edgeprune.graph.nodes import argument
from edgeprune.graph.registry import rewriter, rule

aten = torch.ops.aten
CONVOLUTIONS = (
    aten.conv1d.default,
    aten.conv1d.padding,
    aten.conv2d.default,
    aten.conv2d.padding,
    aten.conv3d.default,
    aten.conv3d.padding,
)
TRANSPOSED = (aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input)


@rule(*CONVOLUTIONS)
def convolution(flow: Flow, node: fx.Node, x: Any, weight: Any, bias: Any = None, *rest: Any, **named: Any) -> Tensor:
    """Weight (out, in / groups, ...): rows are new channels, columns those of the input."""
    groups = groups_of(node)
    shape, reason = shape_of(node), place_of(node)
    dim = channel_dim(node)
    source = flow.vector(x, dim, f"{reason}: its input's channels differ by position")
    if not isinstance(weight, ParamView):
        return _computed_weight(flow, node, source, weight, shape)
    out_channels, per_group = weight.shape[0], source.numel() // groups
    out = flow.channels.fresh((out_channels,))
    ones = (1,) * (len(weight.shape) - 2)
    flow.produce(weight, 0, out.reshape(-1, 1, *ones), reason)
    flow.produce(bias, 0, out, reason)
    if groups == 1:
        flow.read(weight, 1, source.reshape(1, -1, *ones), reason)
    elif per_group == 1:
        flow.channels.unite(source.repeat_interleave(out_channels // groups), out, f"{reason}: depthwise over a fixed channel")
    else:
        rows = source.reshape(groups, per_group)
        flow.read(weight, 1, rows.repeat_interleave(out_channels // groups, 0).reshape(out_channels, per_group, *ones), reason)
        flow.balance(rows, f"{reason} has {groups} groups")
        flow.balance(out.reshape(groups, -1), f"{reason} has {groups} groups")
    return along(out, shape, dim)


@rule(*TRANSPOSED)
def transposed_convolution(flow: Flow, node: fx.Node, x: Any, weight: Any, bias: Any = None, *rest: Any, **named: Any) -> Tensor:
    """Weight (in, out / groups, ...): rows read the input's channels, columns are new ones."""
    groups, shape, reason = groups_of(node), shape_of(node), place_of(node)
    dim = channel_dim(node)
    source = flow.vector(x, dim, f"{reason}: its input's channels differ by position")
    if not isinstance(weight, ParamView):
        return _computed_weight(flow, node, source, weight, shape)
    ones = (1,) * (len(weight.shape) - 2)
    out, rows = flow.channels.fresh((shape[dim],)), source.reshape(groups, -1)
    per_group = out.reshape(groups, -1).repeat_interleave(rows.shape[1], 0)
    if groups > 1 and groups == source.numel():
        flow.channels.unite(source.repeat_interleave(shape[dim] // groups), out, f"{reason}: depthwise over a fixed channel")
        flow.read(weight, 0, source.reshape(-1, 1, *ones), reason)
    else:
        flow.read(weight, 0, source.reshape(-1, 1, *ones), reason)
        flow.produce(weight, 1, per_group.reshape(source.numel(), -1, *ones), reason)
        flow.balance(rows, f"{reason} has {groups} groups")
        flow.balance(out.reshape(groups, -1), f"{reason} has {groups} groups")
    flow.produce(bias, 0, out, reason)
    return along(out, shape, dim)


def groups_of(node: fx.Node) -> int:
    """The ``groups`` argument of a convolution node."""
    return int(argument(node, 6, "groups", 1))


def channel_dim(node: fx.Node) -> int:
    """Where the channels of a convolution's input and output are: 1, or 0 without a batch dimension."""
    spatial = int(str(node.target).split(".")[1][-2])
    return len(shape_of(node)) - spatial - 1


def _computed_weight(flow: Flow, node: fx.Node, source: Tensor, weight: Any, shape: tuple[int, ...]) -> Tensor:
    """What a weight is computed from has no channels; those of the layer stay."""
    reason = f"{place_of(node)}: its weight is computed on every call, in a way that cannot be followed; store it to prune the layer"
    flow.channels.freeze(source, reason)
    parts = without_input(node.args[1])
    if parts is None:
        flow.freeze(weight, reason)
    for name in {str(part.target) for part in parts or () if part.op == "get_attr"}:
        flow.owners = {owner: labels for owner, labels in flow.owners.items() if owner[0] != name}
        flow.used.pop(name, None)
        flow.frozen.setdefault(name, reason)
    return no_labels(shape)


@rewriter(*CONVOLUTIONS, *TRANSPOSED)
def regroup(cut: Any, node: fx.Node) -> None:
    """A depthwise convolution has as many groups as channels are left."""
    x = node.args[0]
    assert isinstance(x, fx.Node)
    groups, dim = groups_of(node), channel_dim(node)
    if groups > 1 and groups == cut.old_shape(x)[dim]:
        if len(node.args) > 6:
            node.update_arg(6, cut.new_shape(x)[dim])
        else:
            node.update_kwarg("groups", cut.new_shape(x)[dim])
