"""Normalisations whose statistics are of one channel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from edgeprune.graph.flow import Flow
from edgeprune.graph.labels import along
from edgeprune.graph.registry import rule

aten = torch.ops.aten


@rule(aten.batch_norm.default)
def batch_norm(flow: Flow, node: fx.Node, x: Any, weight: Any, bias: Any, mean: Any, variance: Any, *rest: Any) -> Tensor:
    """Scale, shift and both running statistics belong to the channels of dimension 1."""
    reason = f"batch norm {node.name}"
    vector = flow.vector(x, 1, reason)
    for stored in (weight, bias, mean, variance):
        flow.own(stored, 0, vector, reason)
    return along(vector, flow.labels(x).shape, 1)
