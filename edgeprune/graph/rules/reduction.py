"""Reductions and normalised exponentials over dimensions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from edgeprune.graph.flow import Flow, shape_of
from edgeprune.graph.labels import blank, varying
from edgeprune.graph.registry import rule

aten = torch.ops.aten


@rule(
    aten.mean.dim,
    aten.sum.dim_IntList,
    aten.amax.default,
    aten.amin.default,
    aten.var.correction,
    aten.std.correction,
    aten.linalg_vector_norm.default,
)
def reduce(flow: Flow, node: fx.Node, x: Any, dims: Any = None, *rest: Any, **named: Any) -> Tensor:
    """Over space the channels stay; over the channels themselves they are fixed, since fewer would change the result."""
    if node.target is aten.linalg_vector_norm.default:
        dims = rest[0] if rest else named.get("dim")
    labels, shape = flow.labels(x), shape_of(node)
    gone = {int(dim) % labels.dim() for dim in ([dims] if isinstance(dims, int) else dims or range(labels.dim()))}
    if gone & set(varying(labels)):
        flow.channels.fix(labels, f"{node.name} reduces over channels")
        return blank(shape)
    kept = labels[tuple(slice(0, 1) if dim in gone else slice(None) for dim in range(labels.dim()))]
    return kept if kept.dim() == len(shape) else kept.reshape(shape)


@rule(aten.mean.default, aten.sum.default)
def reduce_all(flow: Flow, node: fx.Node, x: Any, **named: Any) -> Tensor:
    """A single number of everything."""
    flow.channels.fix(flow.labels(x), f"{node.name} reduces over channels")
    return blank(())


@rule(aten.softmax.int, aten.log_softmax.int, aten.cumsum.default)
def along_dimension(flow: Flow, node: fx.Node, x: Any, dim: int, *rest: Any, **named: Any) -> Tensor:
    """Every element depends on all others along ``dim``."""
    labels = flow.labels(x)
    if dim % labels.dim() in varying(labels):
        flow.channels.fix(labels, f"{node.name} is taken over channels")
        return blank(labels.shape)
    return labels
