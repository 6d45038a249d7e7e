"""Operations on one element at a time: channels that meet are one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from edgeprune.graph.flow import Flow, Stored, shape_of
from edgeprune.graph.labels import along
from edgeprune.graph.registry import rule

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
    aten._to_copy.default,
    aten.zero_.default,
    aten.fill_.Scalar,
    aten.fill_.Tensor,
    aten.dropout.default,
)
"""What leaves a parameter in its place (or sets a part of a copy to one value)."""


@rule(
    aten.relu.default,
    aten.relu_.default,
    aten.relu6.default,
    aten.relu6_.default,
    aten.hardtanh.default,
    aten.hardtanh_.default,
    aten.hardswish.default,
    aten.hardswish_.default,
    aten.hardsigmoid.default,
    aten.hardsigmoid_.default,
    aten.sigmoid.default,
    aten.sigmoid_.default,
    aten.silu.default,
    aten.silu_.default,
    aten.gelu.default,
    aten.tanh.default,
    aten.tanh_.default,
    aten.elu.default,
    aten.elu_.default,
    aten.leaky_relu.default,
    aten.leaky_relu_.default,
    aten.mish.default,
    aten.softplus.default,
    aten.clamp.default,
    aten.clamp_.default,
    aten.clamp_min.default,
    aten.clamp_max.default,
    aten.hardshrink.default,
    aten.softshrink.default,
    aten.frac.default,
    aten.logit.default,
    aten.threshold.default,
    aten.selu.default,
    aten.celu.default,
    aten.log_sigmoid.default,
    aten.erf.default,
    aten.sin.default,
    aten.cos.default,
    aten.sign.default,
    aten.floor.default,
    aten.ceil.default,
    aten.round.default,
    aten.trunc.default,
    aten.expm1.default,
    aten.log1p.default,
    aten.log2.default,
    aten.sinh.default,
    aten.atan.default,
    aten.isnan.default,
    aten.isinf.default,
    aten.logical_not.default,
    aten.bitwise_not.default,
    aten.nan_to_num.default,
    aten.eq.Scalar,
    aten.ne.Scalar,
    aten.lt.Scalar,
    aten.le.Scalar,
    aten.gt.Scalar,
    aten.ge.Scalar,
    aten.remainder.Scalar,
    aten.floor_divide.Scalar,
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
    aten.exp.default,
    aten.log.default,
    aten.sqrt.default,
    aten.sqrt_.default,
    aten.rsqrt.default,
    aten.rsqrt_.default,
    aten.exp_.default,
    aten.neg_.default,
    aten.gelu_.default,
    aten.mish_.default,
    aten.clamp_min_.default,
    aten.square_.default,
    aten.abs.default,
    aten.neg.default,
    aten.square.default,
    aten.reciprocal.default,
    aten.pow.Tensor_Scalar,
    aten.dropout.default,
    aten.dropout_.default,
    aten.feature_dropout.default,
    aten.feature_dropout_.default,
    aten.alpha_dropout.default,
    aten.clone.default,
    aten.contiguous.default,
    aten.detach.default,
    aten.alias.default,
    aten.to.dtype,
    aten.to.dtype_layout,
    aten.to.device,
    aten._to_copy.default,
    aten.type_as.default,
    aten.lift_fresh_copy.default,
    aten.detach_.default,
    aten.zero_.default,
    aten.fill_.Scalar,
    aten.fill_.Tensor,
)
def unary(flow: Flow, node: fx.Node, x: Any, *rest: Any, **named: Any) -> Any:
    """The result's channels are the operand's.  A parameter that is only copied stays a parameter."""
    return x if isinstance(x, Stored) and node.target in COPIES else flow.labels(x)


@rule(
    aten.add.Tensor,
    aten.add_.Tensor,
    aten.add.Scalar,
    aten.sub.Tensor,
    aten.sub_.Tensor,
    aten.sub.Scalar,
    aten.rsub.Scalar,
    aten.mul.Tensor,
    aten.mul_.Tensor,
    aten.mul.Scalar,
    aten.div.Tensor,
    aten.div_.Tensor,
    aten.div.Scalar,
    aten.subtract.Tensor,
    aten.subtract.Scalar,
    aten.multiply.Tensor,
    aten.multiply.Scalar,
    aten.divide.Tensor,
    aten.divide.Scalar,
    aten.true_divide.Tensor,
    aten.add_.Scalar,
    aten.sub_.Scalar,
    aten.mul_.Scalar,
    aten.div_.Scalar,
    aten.maximum.default,
    aten.minimum.default,
    aten.pow.Tensor_Tensor,
    aten.pow.Scalar,
    aten.div.Tensor_mode,
    aten.floor_divide.default,
    aten.remainder.Tensor,
    aten.atan2.default,
    aten.clamp.Tensor,
    aten.lerp.Tensor,
    aten.hypot.default,
    aten.logaddexp.default,
    aten.copysign.Tensor,
    aten.lerp.Scalar,
    aten.eq.Tensor,
    aten.ne.Tensor,
    aten.lt.Tensor,
    aten.le.Tensor,
    aten.gt.Tensor,
    aten.ge.Tensor,
    aten.logical_and.default,
    aten.logical_or.default,
    aten.logical_xor.default,
    aten.bitwise_and.Tensor,
    aten.bitwise_or.Tensor,
    aten.__and__.Tensor,
    aten.__or__.Tensor,
    aten.where.self,
    aten.where.ScalarSelf,
    aten.where.ScalarOther,
    aten.masked_fill.Scalar,
    aten.masked_fill_.Scalar,
    aten.masked_fill.Tensor,
    aten.addcmul.default,
    aten.addcdiv.default,
    aten.copy_.default,
    aten.copy.default,
)
def binary(flow: Flow, node: fx.Node, *args: Any, **named: Any) -> Tensor:
    """Element-wise with broadcasting; Python numbers do not matter."""
    tensors = [value for value in args if isinstance(value, (Tensor, Stored))]
    result = flow.join(tensors, f"{node.name}")
    return result.expand(shape_of(node))


@rule(aten.prelu.default)
def prelu(flow: Flow, node: fx.Node, x: Any, slope: Stored) -> Tensor:
    """A slope for every channel (dimension 1), or one for all."""
    labels = flow.labels(x)
    if slope.shape.numel() > 1:
        vector = flow.vector(x, 1, f"prelu {node.name}")
        flow.produce(slope, 0, vector, f"prelu {node.name}")
        return along(vector, labels.shape, 1)
    return labels


@rule(aten.glu.default)
def glu(flow: Flow, node: fx.Node, x: Any, dim: int = -1) -> Tensor:
    """One half gates the other, channel by channel."""
    value, gate = flow.labels(x).chunk(2, dim)
    return flow.join([value, gate], node.name).expand(shape_of(node))
