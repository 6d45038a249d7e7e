"""Values in a captured graph that do not depend on its inputs."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx

from edgeprune.graph.capture import tensor_at
from edgeprune.graph.flow import writes_in_place

LIMIT = 10_000_000
"""Largest number of elements that is worth computing for an index."""


def constant(module: fx.GraphModule, value: Any) -> Tensor | None:
    """What ``value`` (an argument of a node) computes when no input of the model goes into it; None when one does."""
    try:
        result = _evaluate(module, value, {})
    except _DependsOnInput:
        return None
    return result if isinstance(result, Tensor) else None


class _DependsOnInput(Exception):
    pass


def _evaluate(module: fx.GraphModule, value: Any, known: dict[fx.Node, Any]) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(_evaluate(module, item, known) for item in value)
    if not isinstance(value, fx.Node):
        return value
    if value not in known:
        known[value] = _node(module, value, known)
    return known[value]


def _node(module: fx.GraphModule, node: fx.Node, known: dict[fx.Node, Any]) -> Any:
    if node.op == "get_attr":
        return tensor_at(module, str(node.target)).detach()
    seen = node.meta.get("val")
    if node.op != "call_function" or (isinstance(seen, Tensor) and seen.numel() > LIMIT):
        raise _DependsOnInput
    args = _evaluate(module, tuple(node.args), known)
    kwargs = {name: _evaluate(module, item, known) for name, item in node.kwargs.items()}
    if writes_in_place(node):
        raise _DependsOnInput
    return node.target(*args, **kwargs)  # type: ignore[operator]
