"""Normalisations: over one channel's own values, or over several channels."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx

from edgeprune.graph.flow import Flow, ParamView, place_of
from edgeprune.graph.labels import along, varying
from edgeprune.graph.nodes import argument
from edgeprune.graph.registry import reference, rewriter, rule

aten = torch.ops.aten


@rule(aten.batch_norm.default, aten.instance_norm.default)
def batch_norm(flow: Flow, node: fx.Node, x: Any, weight: Any, bias: Any, mean: Any, variance: Any, *rest: Any, **named: Any) -> Any:
    """Scale, shift and both running statistics belong to the channels of dimension 1."""
    reason = place_of(node)
    if isinstance(x, ParamView):  # a weight standardised by rows: it stays the weight it is, its rows those of the scale
        vector = flow.channels.fresh((x.shape[1],))
        flow.produce(x, 1, vector.reshape(-1, *[1] * (len(x.shape) - 2)), reason)
    else:
        vector = flow.vector(x, 1, reason)
    for stored in (weight, bias, mean, variance):
        flow.produce(stored, 0, vector, reason)
    return x if isinstance(x, ParamView) else along(vector, x.shape, 1)


@rule(aten._weight_norm.default)
def weight_norm(flow: Flow, node: fx.Node, weight: Any, scale: Any, dim: int = 0) -> Any:
    """A weight whose rows along ``dim`` have the norms ``scale``: it stays the weight it is."""
    if not isinstance(weight, ParamView):
        return flow.join([weight, scale], place_of(node))
    rows = flow.channels.fresh((weight.shape[dim],)).reshape([-1 if d == dim else 1 for d in range(len(weight.shape))])
    for stored in (weight, scale):
        flow.produce(stored, dim, rows, place_of(node))
    return weight


@rule(aten.group_norm.default)
def group_norm(flow: Flow, node: fx.Node, x: Any, groups: int, weight: Any = None, bias: Any = None, *rest: Any, **named: Any) -> Tensor:
    """Every group of channels keeps equally many."""
    reason = place_of(node)
    vector = flow.vector(x, 1, reason)
    for stored in (weight, bias):
        flow.produce(stored, 0, vector, reason)
    flow.balance(vector.reshape(groups, -1), f"{reason} has {groups} groups")
    return along(vector, flow.labels(x).shape, 1)


@rule(aten.layer_norm.default, aten.rms_norm.default)
def layer_norm(
    flow: Flow, node: fx.Node, x: Any, shape: list[int], weight: Any = None, bias: Any = None, *rest: Any, **named: Any
) -> Tensor:
    """Over the last ``len(shape)`` dimensions; scale and shift are as large as those."""
    labels, reason = flow.channels.resolve(flow.labels(x)), place_of(node)
    first = labels.dim() - len(shape)
    rows = [dim for dim in varying(labels) if dim < first]
    own = [dim for dim in varying(labels) if dim >= first]
    scaled = weight is not None or isinstance(bias, (Tensor,))
    if rows and own and scaled and flow.whole_heads:  # one scale for every row: rows go whole, and the scale stays
        labels, own = flow.channels.collapse(labels, own, f"{reason} is shared by several heads"), []
    elif rows and own and scaled:  # the same channels in each row
        labels, rows = flow.channels.collapse(labels, rows, f"{reason} is shared by rows"), []
    vector = labels[(0,) * first] if not rows else None
    for stored in (weight, bias) if node.target is aten.layer_norm.default else (weight,):
        if stored is not None and vector is not None:
            flow.produce(stored, tuple(dim - first for dim in own) or (len(shape) - 1,), vector, reason)
    return labels


@reference(aten.batch_norm.default)
def batch_norm_of_those_left(
    node: fx.Node, stays: Tensor | None, x: Tensor, weight: Any, bias: Any, mean: Any, variance: Any, training: bool, momentum: float,
    eps: float, *rest: Any,
) -> Tensor:  # fmt: skip
    """With running statistics as ever; else every channel's over what is left of it."""
    if not training or stays is None:
        plain: Tensor = aten.batch_norm(x, weight, bias, mean, variance, training, momentum, eps, *rest)
        return plain
    dims = tuple(dim for dim in range(x.dim()) if dim != 1)
    return _scaled(_standardised(x, stays.expand(x.shape), dims, eps), weight, bias, (1, -1, *[1] * (x.dim() - 2)))


def _standardised(x: Tensor, stays: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    """Mean 0 and variance 1 along ``dims`` of what stays (of ``x``'s shape); the rest is zero."""
    keep = stays.to(x.dtype)
    count = keep.sum(dims, keepdim=True).clamp_min(1)
    centred = (x - (x * keep).sum(dims, keepdim=True) / count) * keep
    return centred / torch.sqrt(centred.square().sum(dims, keepdim=True) / count + eps)


def _scaled(x: Tensor, weight: Tensor | None, bias: Tensor | None, view: tuple[int, ...]) -> Tensor:
    """Scale and shift, in the shape ``view``."""
    x = x if weight is None else x * weight.reshape(view)
    return x if bias is None else x + bias.reshape(view)


def _all_or(stays: Tensor | None, x: Tensor) -> Tensor:
    return torch.ones_like(x, dtype=torch.bool) if stays is None else stays.expand(x.shape)


@reference(aten.layer_norm.default)
def layer_norm_of_those_left(
    node: fx.Node, stays: Tensor | None, x: Tensor, shape: list[int], weight: Any = None, bias: Any = None, eps: float = 1e-5, *rest: Any
) -> Tensor:
    """Mean and variance over what is left."""
    dims = tuple(range(x.dim() - len(shape), x.dim()))
    return _scaled(_standardised(x, _all_or(stays, x), dims, eps), weight, bias, tuple(x.shape[dims[0] :]))


@reference(aten.rms_norm.default)
def rms_norm_of_those_left(
    node: fx.Node, stays: Tensor | None, x: Tensor, shape: list[int], weight: Any = None, eps: float | None = None
) -> Tensor:
    """Mean square over what is left."""
    dims = tuple(range(x.dim() - len(shape), x.dim()))
    keep = _all_or(stays, x).to(x.dtype)
    power = (x * keep).square().sum(dims, keepdim=True) / keep.sum(dims, keepdim=True)
    result = x / torch.sqrt(power + (torch.finfo(x.dtype).eps if eps is None else eps))
    return result if weight is None else result * weight


@reference(aten.group_norm.default)
def group_norm_of_those_left(
    node: fx.Node, stays: Tensor | None, x: Tensor, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, *rest: Any
) -> Tensor:
    """Every group's statistics over what is left of it."""
    grouped = (x.shape[0], groups, math.prod(x.shape[1:]) // groups)
    result = _standardised(x.reshape(grouped), _all_or(stays, x).reshape(grouped), (-1,), eps).reshape(x.shape)
    return _scaled(result, weight, bias, (1, -1, *[1] * (x.dim() - 2)))


@rewriter(aten.layer_norm.default, aten.rms_norm.default)
def renormalize(cut: Any, node: fx.Node) -> None:
    """The normalised shape is what is left of it."""
    count = len(argument(node, 1))
    node.update_arg(1, list(cut.new_shape(node)[-count:]))
