"""Sums of products (matmul, einsum, linear, attention), all as one contraction over named dimensions.

``x[a b k] * y[a k c]`` summed over ``k``: channels along ``k`` are the same in both operands. Along a batch dimension ``a`` (the heads of
attention) a row of the result needs some of its ``k`` left: with ``flow.whole_heads`` all channels of a row go together, else every row
keeps equally many.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from edgeprune.graph.flow import Flow, ParamView, place_of, shape_of
from edgeprune.graph.labels import canonical, joint_shape, meet, narrowed, no_labels, squeeze_constant, varying, without
from edgeprune.graph.nodes import compute
from edgeprune.graph.registry import reference, rewriter, rule

aten = torch.ops.aten
Names = str
GROUPED: tuple[Any, ...] = (aten._grouped_mm.default, "transformers.grouped_mm_fallback.default")
"""Products of rows with the matrix of the expert that each was sent to; the second is transformers' own."""


@rule(aten.linear.default)
def linear(flow: Flow, node: fx.Node, x: Any, weight: Any, bias: Any = None) -> Tensor:
    """Weight (out, in) over the last dimension of ``x``."""
    free = _letters(len(shape_of(node)) - 1)
    result = contract(flow, node, x, free + "k", weight, "ok", free + "o")
    return _with_bias(flow, node, result, bias)


@rule(aten.addmm.default)
def addmm(flow: Flow, node: fx.Node, bias: Any, x: Any, weight: Any, **scale: Any) -> Tensor:
    """bias + x @ weight, weight (in, out)."""
    return _with_bias(flow, node, contract(flow, node, x, "ak", weight, "ko", "ao"), bias)


@rule(aten.matmul.default, aten.mm.default, aten.bmm.default, aten.mv.default, aten.dot.default, aten.vdot.default)
def matmul(flow: Flow, node: fx.Node, x: Any, y: Any) -> Tensor:
    """The last dimension of ``x`` with the last but one of ``y``, batched over those before."""
    left, right = _rank(x), _rank(y)
    batch = _letters(max(left, right, 2) - 2)
    sx = "k" if left == 1 else batch[len(batch) - (left - 2) :] + "ik"
    sy = "k" if right == 1 else batch[len(batch) - (right - 2) :] + "kj"
    out = batch + ("i" if left > 1 else "") + ("j" if right > 1 else "")
    return contract(flow, node, x, sx, y, sy, out)


@rule(*GROUPED)
def grouped_matmul(flow: Flow, node: fx.Node, x: Any, weight: Any, offsets: Any = None, bias: Any = None, *rest: Any, **named: Any) -> Any:
    """Rows (rows, in) with weights (experts, in, out): rows of all experts stand in one result, so all experts lose the same channels."""
    if (_rank(x), _rank(weight)) == (3, 3):
        return contract(flow, node, x, "eik", weight, "ekj", "eij")
    if (_rank(x), _rank(weight)) != (2, 3) or not isinstance(weight, ParamView):
        for value in (x, weight):
            flow.freeze(value, f"{place_of(node)} multiplies groups of computed matrices")
        return no_labels(shape_of(node))
    result = contract(flow, node, x, "sk", weight, "ekj", "sj")
    return result if bias is None else flow.join([result, bias], place_of(node)).expand(shape_of(node))


@rule(aten.baddbmm.default)
def baddbmm(flow: Flow, node: fx.Node, bias: Any, x: Any, y: Any, **scale: Any) -> Tensor:
    """bias + x @ y, batched."""
    product = contract(flow, node, x, "aik", y, "akj", "aij")
    return flow.join([product, bias], place_of(node)).expand(shape_of(node))


@rule(aten.einsum.default)
def einsum(flow: Flow, node: fx.Node, equation: str, operands: list[Any], **named: Any) -> Tensor:
    """Two operands; one only has its dimensions permuted and summed."""
    parts, out = equation_of(equation, [_rank(value) for value in operands])
    if len(operands) == 1:
        return contract(flow, node, operands[0], parts[0], None, "", out)
    if len(operands) == 2:
        return contract(flow, node, operands[0], parts[0], operands[1], parts[1], out)
    for value in operands:
        flow.freeze(value, f"{place_of(node)} multiplies more than two tensors")
    return no_labels(shape_of(node))


@rule(aten.scaled_dot_product_attention.default)
def attention(flow: Flow, node: fx.Node, q: Any, k: Any, v: Any, mask: Any = None, *rest: Any, **named: Any) -> Tensor:
    """softmax(q k') v over (..., heads, places, channels); ``enable_gqa`` repeats the heads of ``k`` and ``v``."""
    q, k, v = (flow.labels(value) for value in (q, k, v))
    if named.get("enable_gqa") and k.shape[-3] != q.shape[-3]:
        k, v = (canonical(value.repeat_interleave(q.shape[-3] // value.shape[-3], -3)) for value in (k, v))
    batch = _letters(q.dim() - 2)
    scores = contract(flow, node, q, batch + "ik", k, batch + "jk", batch + "ij", (*q.shape[:-1], k.shape[-2]))
    if mask is not None:
        scores = flow.join([scores, mask], f"{place_of(node)}: its mask").expand(scores.shape)
    return contract(flow, node, scores, batch + "ij", v, batch + "jc", batch + "ic")


@reference(
    aten.matmul.default, aten.mm.default, aten.bmm.default, aten.mv.default, aten.dot.default, aten.baddbmm.default, aten.einsum.default,
    aten.scaled_dot_product_attention.default,
)  # fmt: skip
def summed_products(node: fx.Node, stays: Any, *args: Any, **named: Any) -> Any:
    """Zeros add nothing; the scale of attention stays that of the original's head size."""
    return compute(node, *args, **named)


@rewriter(aten.scaled_dot_product_attention.default)
def keep_scale(cut: Any, node: fx.Node) -> None:
    """The scale stays that of the original's head size."""
    if node.kwargs.get("scale") is None:
        node.update_kwarg("scale", cut.old_shape(node.args[0])[-1] ** -0.5)


def contract(flow: Flow, node: fx.Node, x: Any, sx: Names, y: Any, sy: Names, out: Names, shape: tuple[int, ...] | None = None) -> Tensor:
    """Labels of the sum over all names that ``out`` lacks of ``x[sx] * y[sy]``; ``y`` None: of ``x`` alone.  A parameter among the
    operands reads the channels summed over, and new ones begin in its other rows. ``shape``: of the result, when not the node's."""
    if isinstance(x, ParamView) and not isinstance(y, ParamView) and y is not None:
        x, sx, y, sy = y, sy, x, sx
    if isinstance(y, ParamView) and y.shape.numel() > 1:
        return _by_parameter(flow, node, flow.labels(x), sx, y, sy, out)
    names = "".join(dict.fromkeys(sx + sy))
    operands = [_spread(flow.labels(value), own, names) for value, own in ((x, sx), (y, sy)) if value is not None]
    summed = [place for place, name in enumerate(names) if name not in out]
    operands = _meet(flow, node, operands, summed)
    operands = [_summed(flow, node, labels, summed) for labels in operands]
    result = operands[0] if len(operands) == 1 else _outer(flow, node, operands[0], operands[1])
    order = [names.index(name) for name in out]
    return canonical(without(result.permute([*order, *summed]), range(len(order), result.dim()))).expand(shape or shape_of(node))


def _meet(flow: Flow, node: fx.Node, operands: list[Tensor], summed: list[int]) -> list[Tensor]:
    """Channels summed over are the same in both operands."""
    if not any(set(varying(labels)) & set(summed) for labels in operands):
        return operands
    if len(operands) == 2:
        left, right = operands
        lone = [dim for dim in range(left.dim()) if dim not in summed and (left.shape[dim] == 1) != (right.shape[dim] == 1)]
        rows = [dim for dim in varying(left) + varying(right) if dim in lone]
        if flow.whole_heads and rows and _broadcast_heads(left, right, summed, rows):
            for labels in operands:  # one operand's channels serve many rows of the other: those rows may go, its channels stay
                if not set(rows) & set(varying(labels)):
                    flow.channels.freeze(labels, f"{place_of(node)}: shared by several heads")
        else:
            operands = [_columns(flow, node, labels, rows) for labels in operands]
            flow.channels.unite(operands[0], operands[1], f"{place_of(node)} multiplies fixed channels")
    if flow.whole_heads and len(operands) == 2:
        for labels in operands:
            if set(varying(labels)) - set(summed):
                core = squeeze_constant(labels)
                first = narrowed(core, summed)
                flow.channels.unite(core, first, place_of(node))
    return [flow.channels.resolve(labels) for labels in operands]


def _broadcast_heads(left: Tensor, right: Tensor, summed: list[int], rows: list[int]) -> bool:
    """Whether rows of channels in one operand meet a single row in the other."""
    changing = [labels for labels in (left, right) if set(varying(labels)) & set(rows)]
    return len(changing) == 1 and bool(set(varying(changing[0])) & set(summed))


def _columns(flow: Flow, node: fx.Node, labels: Tensor, rows: list[int]) -> Tensor:
    """The same channels in all ``rows``: what meets them has one for all."""
    here = [dim for dim in rows if dim in varying(labels)]
    if not here:
        return labels
    core = squeeze_constant(labels)
    first = narrowed(core, here)
    flow.channels.unite(core, first, f"{place_of(node)} is shared by rows")
    return flow.channels.resolve(labels)


def _summed(flow: Flow, node: fx.Node, labels: Tensor, summed: list[int]) -> Tensor:
    """The labels that are left once ``summed`` is gone: none where channels were summed over."""
    if set(varying(labels)) & set(summed):
        others = set(varying(labels)) - set(summed)
        if others and max(others) > max(set(varying(labels)) & set(summed)):
            labels = _columns(flow, node, labels, summed)
            return narrowed(labels, summed)
        return no_labels([1 if dim in summed else size for dim, size in enumerate(labels.shape)])
    return narrowed(labels, summed)


def _outer(flow: Flow, node: fx.Node, left: Tensor, right: Tensor) -> Tensor:
    """Both operands' labels in a result of both one's dimensions."""
    shape = joint_shape(left, right)
    batch = {dim for dim in range(left.dim()) if left.shape[dim] > 1 and right.shape[dim] > 1}
    for one, other in ((left, right), (right, left)):
        if not varying(other) and not bool(other.any()):
            if set(varying(one)) & batch and not set(varying(one)) - batch:
                flow.channels.freeze(one, f"{place_of(node)}: meets rows that must stay")
                return no_labels(shape)
            return one.expand(shape)
    free_left, free_right = set(varying(left)) - batch, set(varying(right)) - batch
    if free_left and free_right:
        if not (flow.whole_heads and set(varying(left)) & batch and set(varying(right)) & batch):
            flow.channels.freeze(right, f"{place_of(node)}: two channels meet in every element")
            return left.expand(shape)
        left, right = (_columns(flow, node, labels, sorted(free)) for labels, free in ((left, free_left), (right, free_right)))
    flow.channels.unite(left, right, f"{place_of(node)} meets fixed channels")
    return flow.channels.resolve(meet(left, right))


def _by_parameter(flow: Flow, node: fx.Node, labels: Tensor, sx: Names, weight: ParamView, sw: Names, out: Names) -> Tensor:
    """The channels of ``labels`` that are summed over end in ``weight``; along its names that only ``out`` has, new ones begin."""
    reason, shape = place_of(node), [dict(zip(out, shape_of(node), strict=True))[name] for name in out]
    summed = [name for name in sx if name in sw and name not in out]
    fresh = [name for name in sw if name not in sx and name in out]
    shared = [name for name in sx if name in sw and name in out]
    labels = _per_column(flow, node, labels, sx, summed, shared)
    changing = {sx[dim] for dim in varying(labels)}
    source = _source(labels, sx, sw)
    flow.read(weight, tuple(dim for dim, name in enumerate(sw) if name in sx), source, reason)
    if changing & set(summed):
        flow.boxes.append((source, f"{reason} reads rows of channels"))
    if changing - set(summed):  # rows of the input stand in the result as they are: no new channels across them
        kept = narrowed(labels, (dim for dim, name in enumerate(sx) if name not in out))
        return canonical(_spread(kept, sx, out).expand(shape))
    heads = [name for name in shared if changing & set(summed) and weight.shape[sw.index(name)] > 1 and name in changing]
    begin = [name for name in out if name in fresh or name in heads]
    new = flow.channels.fresh([shape[out.index(name)] for name in begin])
    flow.produce(weight, tuple(dim for dim, name in enumerate(sw) if name in begin), _spread(new, "".join(begin), sw), reason)
    if len(begin) > 1:
        flow.boxes.append((new, f"{reason} makes rows of channels"))
    return _spread(new, "".join(begin), out).expand(shape)


def _source(labels: Tensor, sx: Names, sw: Names) -> Tensor:
    """What a weight reads, over its own dimensions: nothing where the rows of the input are channels."""
    lone = [dim for dim, name in enumerate(sx) if name not in sw]
    if set(varying(labels)) & set(lone):
        labels = no_labels(labels.shape)
    order = [sx.index(name) for name in sw if name in sx]
    labels = without(labels.permute([*order, *lone]), range(len(order), labels.dim()))
    return labels[tuple(slice(None) if name in sx else None for name in sw)]


def _per_column(flow: Flow, node: fx.Node, labels: Tensor, names: Names, summed: list[str], shared: list[str]) -> Tensor:
    """A weight that is used in every row reads the same channels in all of them."""
    changing = {names[dim] for dim in varying(labels)}
    rows = [dim for dim, name in enumerate(names) if name not in summed and name not in shared]
    return _columns(flow, node, labels, rows) if changing & set(summed) else labels


def _with_bias(flow: Flow, node: fx.Node, result: Tensor, bias: Any) -> Tensor:
    """A bias belongs to the last dimension."""
    if isinstance(bias, ParamView) and varying(result) in ([], [result.dim() - 1]):
        flow.produce(bias, 0, result[(0,) * (result.dim() - 1)], f"bias of {place_of(node)}")
        return result
    return result if bias is None or isinstance(bias, ParamView) else flow.join([result, bias], place_of(node)).expand(result.shape)


def _spread(labels: Tensor, own: Names, names: Names) -> Tensor:
    """The array with its dimensions ``own`` in the order of ``names``: size 1 where it has none, the first place of what they lack."""
    order = [own.index(name) for name in names if name in own]
    rest = [dim for dim, name in enumerate(own) if name not in names]
    moved = without(labels.permute([*order, *rest]), range(len(order), labels.dim()))
    return moved[tuple(slice(None) if name in own else None for name in names)]


def _letters(count: int) -> Names:
    return "ABCDEFGHLMNPQ"[:count]


def _rank(value: Any) -> int:
    return len(value.shape)


def equation_of(equation: str, ranks: list[int]) -> tuple[list[Names], Names]:
    """The names of every operand's dimensions and of the result's, with dots spelled out."""
    left, _, right = equation.replace(" ", "").partition("->")
    parts = left.split(",")
    dots = max((rank - len(part.replace("...", "")) for part, rank in zip(parts, ranks, strict=True) if "..." in part), default=0)
    letters = "0123456789"[:dots]
    spelled = [
        part.replace("...", letters[len(letters) - (rank - len(part.replace("...", ""))) :])
        for part, rank in zip(parts, ranks, strict=True)
    ]
    if "->" in equation:
        return spelled, right.replace("...", letters)
    joined = "".join(spelled)
    return spelled, letters + "".join(sorted(name for name in set(joined) - set(letters) if joined.count(name) == 1))
