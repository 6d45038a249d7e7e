"""Operations on one element at a time: channels that meet are one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from edgeprune.graph.constants import without_input
from edgeprune.graph.flow import Flow, ParamView, place_of, shape_of
from edgeprune.graph.labels import along
from edgeprune.graph.registry import FALLBACKS, rule

aten = torch.ops.aten
COPIES = (
    aten.clone.default,
    aten.contiguous.default,
    aten.detach.default,
    aten.detach_.default,
    aten.alias.default,
    aten.lift_fresh_copy.default,
    aten.to.dtype,
    aten.to.dtype_layout,
    aten.to.device,
    aten._to_copy.default,
    aten.zero_.default,
    aten.fill_.Scalar,
    aten.fill_.Tensor,
    aten.dropout.default,
)
"""What leaves a parameter in its place (or sets a part of a copy to one value)."""


@rule(
    *COPIES,
    aten.type_as.default,
    aten.dropout_.default,
    aten.feature_dropout.default,
    aten.feature_dropout_.default,
    aten.alpha_dropout.default,
    aten.bernoulli_.float,
    aten.bernoulli.default,
    aten.bernoulli.p,
    aten.uniform_.default,
    aten.normal_.default,
    aten.exponential_.default,
    aten.rand_like.default,
    aten.rrelu.default,
    aten.rrelu_.default,
    aten.randn_like.default,
    aten.feature_alpha_dropout.default,
    aten.feature_alpha_dropout_.default,
    aten.alpha_dropout_.default,
    aten.hardswish.default,
    aten.hardswish_.default,
    aten.relu6_.default,
    aten.gelu_.default,
    aten.mish_.default,
    aten.log_sigmoid.default,
)
def unary(flow: Flow, node: fx.Node, x: Any, *rest: Any, **named: Any) -> Any:
    """The result's channels are the operand's.  A parameter that is only copied stays a parameter."""
    return x if isinstance(x, ParamView) and node.target in COPIES else flow.labels(x)


@rule(
    aten.floor_divide.default,
    aten.floor_divide.Scalar,
    aten.__and__.Tensor,
    aten.__or__.Tensor,
    aten.masked_fill.Tensor,
    aten.masked_fill_.Scalar,
    aten.where.ScalarSelf,
    aten.where.ScalarOther,
    aten.copy_.default,
    aten.copy.default,
)
def pointwise(flow: Flow, node: fx.Node, *args: Any, **named: Any) -> Any:
    """Element-wise with broadcasting; Python numbers do not matter."""
    tensors = [value for value in (*args, *named.values()) if isinstance(value, (Tensor, ParamView))]
    weight = _rescaled(flow, node, tensors)
    if weight is not None:
        return weight
    result = flow.join(tensors, place_of(node))
    value = node.meta["val"]
    if isinstance(value, Tensor):
        return result.expand(shape_of(node))
    return [result.expand([int(size) for size in part.shape]) for part in value]


FALLBACKS[torch.Tag.pointwise] = pointwise


def _rescaled(flow: Flow, node: fx.Node, operands: list[Any]) -> ParamView | None:
    """The weight that an operation changes element by element, by itself or by one number a row (weight standardisation): it stays a
    weight, and the row's number goes with the row.  None where this is something else."""
    shape = torch.Size(shape_of(node)) if isinstance(node.meta["val"], Tensor) else None
    weight = next((value for value in operands if isinstance(value, ParamView) and value.index is None and value.shape == shape), None)
    if weight is None or sum(size > 1 for size in weight.shape) < 2 or without_input(node) is None:
        return None
    rows: list[tuple[int, Any]] = []
    for other in operands:
        if isinstance(other, ParamView) and (other.name == weight.name or other.shape.numel() == 1):
            continue
        changing = [dim - len(other.shape) for dim, size in enumerate(other.shape) if size > 1]
        if len(changing) > 1:
            return None
        rows += [(dim, other) for dim in changing]
    for dim, other in rows:
        numbers = flow.channels.fresh((weight.shape[dim],))
        for stored in (weight, other):
            if isinstance(stored, ParamView):
                own = dim % len(stored.shape)
                flow.produce(stored, own, numbers.reshape([-1 if d == own else 1 for d in range(len(stored.shape))]), place_of(node))
        if not isinstance(other, ParamView):
            flow.channels.unite(flow.vector(other, dim, place_of(node)), numbers, place_of(node))
    return weight


@rule(
    aten.fake_quantize_per_tensor_affine.default,
    aten.fake_quantize_per_tensor_affine.tensor_qparams,
    aten.fake_quantize_per_channel_affine.default,
)
def fake_quantize(flow: Flow, node: fx.Node, x: Any, scale: Any, zero: Any, axis: int = 0, *rest: Any) -> Any:
    """Rounded as int8 would be, with one scale for all or one a channel: a weight stays a weight."""
    if node.target is not aten.fake_quantize_per_channel_affine.default:
        return x if isinstance(x, ParamView) else flow.labels(x)
    if isinstance(x, ParamView):
        rows = flow.channels.fresh((x.shape[axis],))
        flow.produce(x, axis, rows.reshape([-1 if dim == axis else 1 for dim in range(len(x.shape))]), place_of(node))
    else:
        rows = flow.vector(x, axis, place_of(node))
    for numbers in (scale, zero):
        flow.produce(numbers, 0, rows, place_of(node))
    return x if isinstance(x, ParamView) else along(rows, shape_of(node), axis)


@rule(aten.view_as_complex.default)
def view_as_complex(flow: Flow, node: fx.Node, x: Any) -> Tensor:
    """Real and imaginary part of a number are one channel."""
    labels = flow.labels(x)
    return flow.join([labels.select(-1, 0), labels.select(-1, 1)], place_of(node))


@rule(aten.view_as_real.default)
def view_as_real(flow: Flow, node: fx.Node, x: Any) -> Tensor:
    """The reverse of :func:`view_as_complex`."""
    return flow.labels(x).unsqueeze(-1).expand(shape_of(node))


@rule(aten.prelu.default)
def prelu(flow: Flow, node: fx.Node, x: Any, slope: ParamView) -> Tensor:
    """A slope for every channel (dimension 1), or one for all."""
    labels = flow.labels(x)
    if slope.shape.numel() > 1:
        vector = flow.vector(x, 1, place_of(node))
        flow.produce(slope, 0, vector, place_of(node))
        return along(vector, labels.shape, 1)
    return labels


@rule(aten.glu.default)
def glu(flow: Flow, node: fx.Node, x: Any, dim: int = -1) -> Tensor:
    """One half gates the other, channel by channel."""
    value, gate = flow.labels(x).chunk(2, dim)
    return flow.join([value, gate], place_of(node)).expand(shape_of(node))
