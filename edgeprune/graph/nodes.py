"""A graph node's operation and arguments, which torch types as any of a dozen kinds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from torch import Tensor, fx, nn


def argument(node: fx.Node, place: int, name: str = "", default: Any = None) -> Any:
    """The argument of ``node`` at ``place``, or the one called ``name``, or else ``default``."""
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)


def compute(node: fx.Node, *args: Any, **named: Any) -> Any:
    """What the operation of ``node`` computes from these values instead of its own arguments."""
    return cast(Callable[..., Any], node.target)(*args, **named)


def with_values(arguments: Any, value_of: Callable[[fx.Node], Any]) -> Any:
    """Arguments of a node, of any nesting, with the value of every node in its place."""
    return fx.map_arg(arguments, value_of)


def nodes_in(arguments: Any) -> list[fx.Node]:
    """The nodes in arguments of any nesting, in order."""
    found: list[fx.Node] = []

    def note(node: fx.Node) -> fx.Node:
        found.append(node)
        return node

    fx.map_arg(arguments, note)
    return found


def store(owner: nn.Module, leaf: str, tensor: Tensor) -> None:
    """Put ``tensor`` into ``owner`` as its own ``leaf``: a parameter among the parameters, else among the buffers."""
    if isinstance(tensor, nn.Parameter):
        owner._parameters[leaf] = tensor
    else:
        owner._buffers[leaf] = tensor
