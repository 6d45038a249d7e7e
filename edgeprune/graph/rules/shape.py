"""Operations that only move elements: they are run on the label array itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from edgeprune.graph.flow import Flow, ParamView, Transposition, place_of, shape_of
from edgeprune.graph.labels import along, canonical, no_labels, squeeze_constant, varying
from edgeprune.graph.nodes import argument
from edgeprune.graph.registry import rewriter, rule

aten = torch.ops.aten
VIEWS = (aten.view.default, aten.reshape.default, aten._unsafe_view.default)
REORDERING = (aten.permute.default, aten.transpose.int, aten.swapaxes.default, aten.movedim.intlist, aten.movedim.int, aten.t.default)
LIKE_ANOTHER = {
    aten.expand_as.default: aten.expand.default,
    aten.view_as.default: aten.reshape.default,
    aten.reshape_as.default: aten.reshape.default,
}
SIZED = (*VIEWS, aten.expand.default, aten.unflatten.int)


@rule(
    *SIZED,
    *REORDERING,
    *LIKE_ANOTHER,
    aten.flatten.using_ints,
    aten.unsqueeze.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.slice.Tensor,
    aten.narrow.default,
    aten.select.int,
    aten.split.Tensor,
    aten.split_with_sizes.default,
    aten.chunk.default,
    aten.tensor_split.sections,
    aten.tensor_split.indices,
    aten.unbind.int,
    aten.flip.default,
    aten.roll.default,
    aten.repeat.default,
    aten.repeat_interleave.self_int,
    aten.unfold.default,
    aten.pixel_shuffle.default,
    aten.pixel_unshuffle.default,
    aten.tile.default,
)
def move(flow: Flow, node: fx.Node, x: Any, *args: Any, **named: Any) -> Any:
    """Elements keep their channel wherever they go.  A parameter is followed by the places of its elements."""
    op: Any = aten.reshape.default if node.target in VIEWS else node.target
    if node.target in LIKE_ANOTHER:
        op, args = LIKE_ANOTHER[node.target], (list(shape_of(node)),)
    if isinstance(x, ParamView):
        moved = op(x.places(), *args, **named)
        if isinstance(moved, Tensor):
            return x.moved(moved)
        return [x.moved(part) for part in moved]
    labels = flow.labels(x)
    if node.target in (aten.expand.default, aten.expand_as.default) and not bool(squeeze_constant(labels).any()):
        return _grown(flow, labels, shape_of(node))
    if node.target in REORDERING and len(varying(labels)) > 1:
        order = _order(node, labels.dim())
        if [dim for dim in order if dim in varying(labels)] != varying(labels):
            flow.transpositions.append(Transposition(labels, order, f"{place_of(node)} reorders fixed channels"))
    return op(labels, *args, **named)


def _grown(flow: Flow, labels: Tensor, shape: tuple[int, ...]) -> Tensor:
    """What is repeated along one dimension is as long there as what it meets (a norm for every channel, a mask for every head)."""
    before = (1,) * (len(shape) - labels.dim()) + tuple(labels.shape)
    dims = [dim for dim, (old, new) in enumerate(zip(before, shape, strict=True)) if old == 1 and new > 1]
    if len(dims) != 1 or dims[0] == 0:
        return no_labels(shape)
    return along(flow.channels.fresh((shape[dims[0]],)), shape, dims[0])


@rule(aten.channel_shuffle.default)
def channel_shuffle(flow: Flow, node: fx.Node, x: Any, groups: int) -> Tensor:
    """(N, C, ...) as (N, groups, C / groups, ...) with the two swapped."""
    labels = flow.labels(x)
    apart = canonical(labels.reshape(labels.shape[0], groups, -1, *labels.shape[2:]))
    flow.transpositions.append(Transposition(apart, (0, 2, 1, *range(3, apart.dim())), f"{place_of(node)} reorders fixed channels"))
    shuffled: Tensor = aten.channel_shuffle(labels, groups)
    return shuffled


def _order(node: fx.Node, rank: int) -> tuple[int, ...]:
    """The order in which a reordering puts its operand's dimensions."""
    op: Any = node.target
    strides = op(torch.empty([2] * rank), *node.args[1:], **node.kwargs).stride()
    return tuple(rank - stride.bit_length() for stride in strides)


@rule(aten.cat.default)
def cat(flow: Flow, node: fx.Node, tensors: list[Any], dim: int = 0) -> Tensor:
    """The parts' channels side by side."""
    parts = [flow.labels(value) for value in tensors]
    rank = max(part.dim() for part in parts)
    parts = [part for part in parts if part.dim() == rank]  # torch lets an empty 1-D tensor pass
    dim %= rank
    parts = [part for part in parts if part.shape[dim]] or parts[:1]
    keep = {dim, *(d for part in parts for d in varying(part))}
    cores = [part[tuple(slice(None) if d in keep else slice(0, 1) for d in range(rank))] for part in parts]
    if len(keep) > 1:  # the other changing dimensions must agree: a box stays a box
        cores = _agreeing(flow, node, cores, dim)
    return torch.cat(cores, dim).expand(shape_of(node))


def _agreeing(flow: Flow, node: fx.Node, cores: list[Tensor], dim: int) -> list[Tensor]:
    """Channels along other dimensions than the concatenated one are the same in every part, and all along it."""
    for core in cores:
        if dim in varying(core):
            flow.channels.unite(core, core.narrow(dim, 0, 1).expand(core.shape), f"{place_of(node)} concatenates fixed channels")
    first = cores[0].narrow(dim, 0, 1)
    for other in cores[1:]:
        flow.channels.unite(first, other.narrow(dim, 0, 1), f"{place_of(node)} concatenates with fixed channels")
    return [flow.channels.resolve(core) for core in cores]


@rule(aten.stack.default)
def stack(flow: Flow, node: fx.Node, tensors: list[Any], dim: int = 0) -> Tensor:
    """A new dimension; what stands at the same place in every part is one channel."""
    parts = [flow.labels(value) for value in tensors]
    for other in parts[1:]:
        flow.channels.unite(parts[0], other, f"{place_of(node)} stacks fixed channels")
    return torch.stack(parts, dim)


@rule(aten.pad.default, aten.constant_pad_nd.default)
def pad(flow: Flow, node: fx.Node, x: Any, pads: list[int], *rest: Any, **named: Any) -> Tensor:
    """Padding along space belongs to the channel it pads; padding along the channels makes new ones."""
    labels = flow.labels(x)
    for back, (before, after) in enumerate(zip(pads[::2], pads[1::2], strict=True)):
        dim = labels.dim() - 1 - back
        if before or after:
            labels = _pad_one(flow, labels, dim, int(before), int(after))
    return labels.expand(shape_of(node))


def _pad_one(flow: Flow, labels: Tensor, dim: int, before: int, after: int) -> Tensor:
    if dim not in varying(labels) and not (labels.shape[dim] == 1 and dim == 1 and bool(labels.any())):
        size = labels.shape[dim] + before + after
        return labels.narrow(dim, 0, 1).expand(*labels.shape[:dim], size, *labels.shape[dim + 1 :])
    core = squeeze_constant(labels)
    if before < 0 or after < 0 or any(core.shape[other] > 1 for other in range(core.dim()) if other != dim):
        flow.channels.freeze(labels, "is padded along several changing dimensions")
        size = labels.shape[dim] + before + after
        return no_labels((*labels.shape[:dim], size, *labels.shape[dim + 1 :]))
    shapes = [[*core.shape[:dim], count, *core.shape[dim + 1 :]] for count in (before, after)]
    parts = [flow.channels.fresh(shapes[0]), core, flow.channels.fresh(shapes[1])]
    padded = torch.cat(parts, dim)
    return padded.expand(*labels.shape[:dim], padded.shape[dim], *labels.shape[dim + 1 :])


@rule(aten.zeros_like.default, aten.ones_like.default, aten.full_like.default, aten.empty_like.default)
def like(flow: Flow, node: fx.Node, x: Any, *rest: Any, **named: Any) -> Tensor:
    """A constant of the operand's shape follows its channels."""
    return flow.labels(x)


# Sizes that are written in the exported graph


@rewriter(*SIZED)
def resize(cut: Any, node: fx.Node) -> None:
    """Sizes that channels were part of become what is left of them."""
    place = 2 if node.target is aten.unflatten.int else 1
    old, new, sizes = cut.old_shape(node), cut.new_shape(node), list(argument(node, place))
    first = int(argument(node, 1)) % (len(old) - len(sizes) + 1) if place == 2 else 0
    part = slice(first, first + len(sizes))
    node.update_arg(place, cut.resized(node, sizes, old[part], new[part]))


@rewriter(aten.slice.Tensor)
def reslice(cut: Any, node: fx.Node) -> None:
    """Start and end move with the channels removed before them."""
    given: list[Any] = [*node.args, *[None] * (5 - len(node.args))]
    x, dim, start, end, step = given
    dim = int(dim or 0)
    kept = cut.kept_along(x, dim)
    if kept is None:
        return
    places = torch.arange(len(kept))[slice(start, end, step)]
    chosen = cut.renumbered(kept, places)
    low, count = int(chosen[0]) if len(chosen) else 0, len(chosen)
    if torch.equal(chosen, torch.arange(low, low + count)):
        node.args = (x, dim, low, low + count, 1)
    else:  # every n-th channel
        node.target, node.args = aten.index_select.default, (x, dim, cut.stored(node, chosen))


@rewriter(aten.narrow.default)
def renarrow(cut: Any, node: fx.Node) -> None:
    """Like a slice."""
    x, dim, start, length = (argument(node, place) for place in range(4))
    kept = cut.kept_along(x, int(dim))
    if kept is not None:
        chosen = cut.renumbered(kept, torch.arange(len(kept))[start : start + length])
        node.args = (x, dim, int(chosen[0]) if len(chosen) else 0, len(chosen))


@rewriter(aten.select.int)
def reselect(cut: Any, node: fx.Node) -> None:
    """The place of one channel among those left."""
    x, dim, place = (argument(node, place) for place in range(3))
    kept = cut.kept_along(x, int(dim))
    if kept is not None:
        node.update_arg(2, int(kept[: int(place) % len(kept)].sum()))


@rewriter(aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default, aten.tensor_split.sections, aten.tensor_split.indices)
def resplit(cut: Any, node: fx.Node) -> None:
    """Every part is as long as what is left of it."""
    dim = int(argument(node, 2, "dim", 0))
    lengths = cut.lengths_along(node.args[0], dim, [part.shape[dim] for part in cut.old_parts(node)])
    if lengths is not None:
        node.target = aten.split_with_sizes.default
        node.args = (node.args[0], lengths, dim)
        node.kwargs = {}


@rewriter(aten.roll.default)
def reroll(cut: Any, node: fx.Node) -> None:
    """By as many places as are left of those that it was rolled by."""
    given: list[Any] = [*node.args, []][1:3]
    shifts, dims = ([value] if isinstance(value, int) else list(value) for value in given)
    for place, dim in enumerate(dims):
        kept = cut.kept_along(node.args[0], int(dim))
        if kept is not None:
            count = shifts[place] % len(kept)
            shifts[place] = int(kept[len(kept) - count :].sum())
    node.update_arg(1, shifts)


@rewriter(aten.pad.default, aten.constant_pad_nd.default)
def repad(cut: Any, node: fx.Node) -> None:
    """As many zero channels on either side as are left of them."""
    pads = list(argument(node, 1))
    rank = len(cut.old_shape(node))
    for back in range(len(pads) // 2):
        dim = rank - 1 - back
        kept = cut.kept_along(node, dim)
        before, after = pads[2 * back], pads[2 * back + 1]
        if kept is not None and (before or after):
            pads[2 * back] = int(kept[:before].sum())
            pads[2 * back + 1] = int(kept[len(kept) - after :].sum())
    node.update_arg(1, pads)
