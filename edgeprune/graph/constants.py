"""Values in a captured graph that do not depend on its inputs."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx

from edgeprune.graph.exported import tensor_at
from edgeprune.graph.flow import draws, writes_in_place
from edgeprune.graph.nodes import compute, nodes_in, with_values

LIMIT = 10_000_000
"""Largest number of elements that is worth computing for an index."""


def constant(module: fx.GraphModule, value: Any) -> Tensor | None:
    """What ``value`` (an argument of a node) computes when no input of the model goes into it; None when one does."""
    ancestors = without_input(value)
    if ancestors is None:
        return None
    known: dict[fx.Node, Any] = {}
    for node in sorted(ancestors):
        if node.op == "get_attr":
            known[node] = tensor_at(module, str(node.target)).detach()
        else:
            args, kwargs = with_values((node.args, node.kwargs), known.__getitem__)
            known[node] = compute(node, *args, **kwargs)
    result = with_values(value, known.__getitem__)
    return result if isinstance(result, Tensor) else None


def without_input(value: Any) -> set[fx.Node] | None:
    """The nodes that ``value`` is computed from when no input of the model, and nothing random, is among them; else None."""
    ancestors: set[fx.Node] = set()
    pending = nodes_in(value)
    while pending:
        node = pending.pop()
        if node not in ancestors:
            if not _certain(node):
                return None
            ancestors.add(node)
            pending += node.all_input_nodes
    return ancestors


def _certain(node: fx.Node) -> bool:
    """Whether a node computes the same from its operands in every run, and not too much."""
    seen = node.meta.get("val")
    if node.op == "get_attr":
        return True
    if node.op != "call_function" or (isinstance(seen, Tensor) and seen.numel() > LIMIT):
        return False
    return not writes_in_place(node) and not draws(node)
