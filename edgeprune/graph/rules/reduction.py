"""Reductions and normalised exponentials over dimensions."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

from edgeprune.graph.flow import Flow, ParamView, place_of, shape_of
from edgeprune.graph.labels import narrowed, no_labels, squeeze_constant, varying
from edgeprune.graph.nodes import argument, compute
from edgeprune.graph.registry import reference, rule

aten = torch.ops.aten
SUMS = (aten.sum.dim_IntList, aten.sum.default, aten.linalg_vector_norm.default, aten.cumsum.default)
MEANS = (aten.mean.dim, aten.mean.default, aten.var.correction, aten.var.dim, aten.std.correction, aten.std.dim, aten.var_mean.correction)
LARGEST = (aten.amax.default, aten.amin.default, aten.max.dim, aten.min.dim)


@rule(
    *(op for op in SUMS if op not in (aten.sum.default, aten.cumsum.default)),
    *(op for op in MEANS if op is not aten.mean.default),
    *LARGEST,
)
def reduce(flow: Flow, node: fx.Node, x: Any, dims: Any = None, *rest: Any, **named: Any) -> Any:
    """Over space the channels stay.  Over channels: of those that are left, as after a normalisation."""
    if node.target is aten.linalg_vector_norm.default:
        dims = rest[0] if rest else named.get("dim")
    rank = len(x.shape)
    gone = {int(dim) % rank for dim in ([dims] if isinstance(dims, int) else dims or range(rank))}
    labels = _rows_of(flow, node, x, gone)
    if labels is None:
        labels = flow.channels.resolve(flow.labels(x))
    kept = _without(flow, node, labels, gone)
    value = node.meta["val"]
    if isinstance(value, Tensor):
        return kept.reshape(shape_of(node))
    return [kept.reshape([int(size) for size in part.shape]) for part in value]


def _rows_of(flow: Flow, node: fx.Node, x: Any, gone: set[int]) -> Tensor | None:
    """The labels of a weight of which there is one number a row, or one in all (its norm); None for all else."""
    rows = [dim for dim, size in enumerate(x.shape) if dim not in gone and size > 1]
    if not isinstance(x, ParamView) or x.index is not None or len(x.shape) < 2 or len(rows) > 1:
        return None
    if not rows:
        return no_labels(x.shape)
    numbers = flow.channels.fresh((x.shape[rows[0]],)).reshape([-1 if dim == rows[0] else 1 for dim in range(len(x.shape))])
    flow.produce(x, rows[0], numbers, place_of(node))
    return numbers.expand(x.shape)


def _without(flow: Flow, node: fx.Node, labels: Tensor, gone: set[int]) -> Tensor:
    """The labels with dimensions ``gone`` narrowed to size 1."""
    over = set(varying(labels)) & gone
    others = set(varying(labels)) - gone
    if over and others and max(others) > max(over):  # what is left along the others must be the same everywhere
        core = squeeze_constant(labels)
        flow.channels.unite(core, narrowed(core, over), f"{place_of(node)} reduces over rows of channels")
        labels = flow.channels.resolve(labels)
    elif over and others and flow.whole_heads:  # every row by itself: it stays with its channels or goes with them
        core = squeeze_constant(labels)
        flow.channels.unite(core, narrowed(core, over), place_of(node))
        labels = flow.channels.resolve(labels)
    elif over:
        labels = no_labels(labels.shape)
    return narrowed(labels, gone)


@rule(aten.mean.default, aten.sum.default)
def reduce_all(flow: Flow, node: fx.Node, x: Any, **named: Any) -> Tensor:
    """A single number of all that is left."""
    return no_labels(())


@rule(aten.softmax.int, aten.log_softmax.int, aten.cumsum.default, aten._softmax.default)
def along_dimension(flow: Flow, node: fx.Node, x: Any, dim: int, *rest: Any, **named: Any) -> Tensor:
    """Every element depends on all others along ``dim``: the same channels in every row, or fixed ones."""
    labels = flow.channels.resolve(flow.labels(x))
    dim %= labels.dim()
    if dim in varying(labels) and len(varying(labels)) > 1:
        core = squeeze_constant(labels)
        flow.channels.unite(core, core.narrow(dim, 0, 1), f"{place_of(node)} runs over rows of channels")
        labels = flow.channels.resolve(labels)
    if dim in varying(labels):
        flow.channels.freeze(labels, f"{place_of(node)} runs over channels")
        return no_labels(labels.shape)
    return labels


@rule(
    aten.sort.default, aten.sort.stable, aten.argsort.default, aten.argsort.stable, aten.topk.default, aten.kthvalue.default,
    aten.median.dim, aten.mode.default, aten.argmax.default, aten.argmin.default, aten.prod.dim_int, aten.any.dim, aten.all.dim,
    aten.cummax.default, aten.cummin.default, aten.cumprod.default, aten.logcumsumexp.default,
)  # fmt: skip
def compared_along(flow: Flow, node: fx.Node, x: Any, *rest: Any, **named: Any) -> Any:
    """Elements compared or multiplied along one dimension, which must not be one of channels; the others stay as they are."""
    labels, value, dim = flow.channels.resolve(flow.labels(x)), node.meta["val"], _dim_of(node)
    parts = [value] if isinstance(value, Tensor) else value
    shapes = [tuple(int(size) if isinstance(size, int) else size.node.hint for size in part.shape) for part in parts]
    if dim is None or dim % labels.dim() in varying(labels):
        flow.channels.freeze(labels, f"{place_of(node)} compares channels with each other")
        results = [no_labels(shape) for shape in shapes]
    else:
        core = narrowed(labels, [dim % labels.dim()])
        results = [(core if len(shape) == core.dim() else core.select(dim, 0)).expand(shape) for shape in shapes]
    return results[0] if isinstance(value, Tensor) else results


def _dim_of(node: fx.Node) -> int | None:
    """The argument ``dim`` of a node."""
    declared = cast(OpOverload, node.target)._schema.arguments
    place, dim = next((place, one) for place, one in enumerate(declared) if one.name == "dim")
    given = argument(node, place, "dim", dim.default_value)
    return given if isinstance(given, int) else None


@rule(aten.diff.default)
def differences(flow: Flow, node: fx.Node, x: Any, n: int = 1, dim: int = -1, *rest: Any, **named: Any) -> Tensor:
    """Neighbours along ``dim``, which is none of channels."""
    labels = flow.labels(x)
    if dim % labels.dim() in varying(labels):
        flow.channels.freeze(labels, f"{place_of(node)} subtracts neighbouring channels")
        return no_labels(shape_of(node))
    return narrowed(labels, [dim % labels.dim()]).expand(shape_of(node))


@reference(*SUMS)
def sums(node: fx.Node, stays: Tensor | None, *args: Any, **named: Any) -> Any:
    """Zeros add nothing."""
    return compute(node, *args, **named)


@reference(*LARGEST)
def largest(node: fx.Node, stays: Tensor | None, x: Tensor, *args: Any, **named: Any) -> Any:
    """The largest or smallest of those left."""
    if stays is not None:
        limit = torch.finfo(x.dtype).min if "max" in str(node.target) else torch.finfo(x.dtype).max
        x = torch.where(stays, x, limit)
    return compute(node, x, *args, **named)


@reference(*MEANS)
def means(node: fx.Node, stays: Tensor | None, x: Tensor, *args: Any, **named: Any) -> Any:
    """Mean, variance or deviation of those left: the original's operation on an array from which the others were taken out."""
    target: Any = node.target
    if stays is None or not (args or named):
        return target(x if stays is None else x[stays.expand(x.shape)], *args, **named)
    dims = args[0] if args else named.get("dim")
    over = [int(dim) % x.dim() for dim in ([dims] if isinstance(dims, int) else dims or range(x.dim()))]
    order = [dim for dim in range(x.dim()) if dim not in over] + over
    keep = stays.expand(x.shape).permute(order).reshape(*(x.shape[dim] for dim in range(x.dim()) if dim not in over), -1)
    rows = x.permute(order).reshape(keep.shape)
    count = int(keep.sum(-1).max())
    places = torch.argsort(keep.to(torch.int8), dim=-1, descending=True, stable=True)[..., :count]
    left = rows.gather(-1, places)
    named = {**named, **({"dim": [-1]} if not args else {})}
    result = target(left, *([[-1], *args[1:]] if args else []), **named)
    back = tuple(1 if dim in over else x.shape[dim] for dim in range(x.dim()))
    keepdim = bool(named.get("keepdim", len(args) > 1 and isinstance(args[-1], bool) and args[-1]))
    return (
        [part.reshape(back) if keepdim else part for part in result]
        if isinstance(result, tuple)
        else (result.reshape(back) if keepdim else result)
    )
