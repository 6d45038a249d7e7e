"""Elements picked by index: known places keep their channels, computed ones must not pick among channels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from edgeprune.graph.constants import constant
from edgeprune.graph.flow import Flow, ParamView, place_of, shape_of
from edgeprune.graph.labels import along, no_labels, varying
from edgeprune.graph.nodes import argument
from edgeprune.graph.registry import rewriter, rule

aten = torch.ops.aten


@rule(aten.embedding.default)
def embedding(flow: Flow, node: fx.Node, weight: Any, indices: Any, *rest: Any, **named: Any) -> Tensor:
    """Weight (entries, channels): the channels begin in its columns."""
    shape, reason = shape_of(node), place_of(node)
    flow.freeze(indices, f"{reason} uses it as an index")
    if not isinstance(weight, ParamView):
        return along(flow.vector(weight, -1, reason), shape, len(shape) - 1)
    out = flow.channels.fresh((shape[-1],))
    flow.produce(weight, 1, out.reshape(1, -1), reason)
    return along(out, shape, len(shape) - 1)


@rule(aten.index.Tensor)
def index(flow: Flow, node: fx.Node, x: Any, indices: list[Any]) -> Any:
    """``x[indices]``: a parameter indexed by constants is followed by the places of its elements."""
    known = [None if place is None else constant(flow.captured.module, place) for place in argument(node, 1)]
    certain = all((place is None) == (value is None) for place, value in zip(indices, known, strict=True))
    if certain and isinstance(x, ParamView):
        return x.moved(aten.index(x.places(), known))
    for place in indices:
        if isinstance(place, Tensor):
            flow.freeze(place, f"{place_of(node)} uses it as an index")
    if isinstance(x, ParamView) and x.index is None and len(x.shape) == 2 and len(indices) == 1 and not certain:
        return _rows(flow, node, x)
    labels = flow.labels(x)
    if certain:
        return aten.index(labels, known)
    chosen = {dim for dim, place in enumerate(indices) if place is not None}
    if chosen & set(varying(labels)):
        flow.channels.freeze(labels, f"{place_of(node)} selects channels by a computed index")
        return no_labels(shape_of(node))
    nowhere = [None if place is None else torch.zeros(_shape(place), dtype=torch.int64) for place in indices]
    return aten.index(labels, nowhere).expand(shape_of(node))


def _rows(flow: Flow, node: fx.Node, table: ParamView) -> Tensor:
    """Rows of a table (an expert's bias for every sample): the channels begin in its columns, as those of an embedding."""
    shape = shape_of(node)
    out = flow.channels.fresh((table.shape[1],))
    flow.produce(table, 1, out.reshape(1, -1), place_of(node))
    return along(out, shape, len(shape) - 1)


@rule(aten.index_put.default, aten.index_put_.default)
def put(flow: Flow, node: fx.Node, x: Any, indices: list[Any], values: Any, *rest: Any, **named: Any) -> Tensor:
    """Values written at computed places, which must be none of channels."""
    for value in (x, *(place for place in indices if place is not None), values):
        flow.freeze(value, f"{place_of(node)} writes at computed places")
    return no_labels(shape_of(node))


@rule(aten.histc.default, aten.bincount.default)
def histogram(flow: Flow, node: fx.Node, x: Any, *rest: Any, **named: Any) -> Tensor:
    """Counts of values."""
    flow.freeze(x, f"{place_of(node)} counts its values")
    return no_labels(shape_of(node))


def _shape(place: Any) -> tuple[int, ...]:
    return tuple(place.shape)


@rule(aten.index_select.default)
def index_select(flow: Flow, node: fx.Node, x: Any, dim: int, index: Any) -> Any:
    """``x`` at the places ``index`` (1-D) of ``dim``."""
    known = constant(flow.captured.module, node.args[2])
    if known is not None and isinstance(x, ParamView):
        return x.moved(x.places().index_select(dim, known))
    labels = flow.labels(x)
    if known is not None:
        return labels.index_select(dim, known)
    if dim % labels.dim() in varying(labels):
        flow.channels.freeze(labels, f"{place_of(node)} selects channels by a computed index")
        return no_labels(shape_of(node))
    return labels.narrow(dim, 0, 1).expand(shape_of(node))


@rule(aten.gather.default)
def gather(flow: Flow, node: fx.Node, x: Any, dim: int, index: Any, **named: Any) -> Tensor:
    """Places along ``dim``, others unchanged."""
    labels, shape = flow.labels(x), shape_of(node)
    flow.freeze(index, f"{place_of(node)} uses it as an index")
    known = constant(flow.captured.module, node.args[2])
    if known is not None:
        return labels.gather(dim, known)
    if dim % labels.dim() in varying(labels):
        flow.channels.freeze(labels, f"{place_of(node)} selects channels by a computed index")
        return no_labels(shape)
    return labels.narrow(dim, 0, 1)[tuple(slice(0, size) for size in shape[: dim % labels.dim()])].expand(shape)


@rewriter(aten.gather.default)
def regather(cut: Any, node: fx.Node) -> None:
    """The index loses the places of channels that go along the other dimensions, over which it is repeated."""
    x, dim, index = (argument(node, place) for place in range(3))
    rank = len(cut.old_shape(x))
    found = [(other, cut.kept_along(x, other)) for other in range(rank) if other != dim % rank]
    cuts = [(other, kept[: cut.old_shape(index)[other]].nonzero().flatten()) for other, kept in found if kept is not None]
    if len(cuts) > 1:
        cut.refuse(node, "gathers rows of channels along several dimensions")
    for other, places in cuts:
        stored = cut.stored(node, places)
        with cut.module.graph.inserting_before(node):
            node.update_arg(2, cut.module.graph.call_function(aten.index_select.default, (index, other, stored)))


@rewriter(aten.index_select.default)
def reselect_places(cut: Any, node: fx.Node) -> None:
    """Known places are renumbered among those left."""
    kept = cut.kept_along(node.args[0], int(argument(node, 1)))
    if kept is not None:
        node.update_arg(2, cut.stored(node, cut.renumbered(kept, cut.value(node.args[2]))))


@rewriter(aten.index.Tensor)
def reindex(cut: Any, node: fx.Node) -> None:
    """One list of known places is renumbered; several at once cannot be."""
    listed = argument(node, 1)
    for dim, place in enumerate(listed):
        kept = None if place is None else cut.kept_along(node.args[0], dim)
        if kept is None:
            continue
        places = cut.value(place)
        if places.dim() != 1 or sum(other is not None for other in listed) != 1:
            cut.refuse(node, "selects channels by several indices at once")
        node.update_arg(1, [None] * dim + [cut.stored(node, cut.renumbered(kept, places))])
