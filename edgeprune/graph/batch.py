"""A graph of any batch size from two of fixed ones, for models that write the batch size into their graph."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

SIZES = (2, 3)
"""The batch sizes of the two graphs."""

FOLLOWS = "edgeprune.follows_batch"
"""The key of a node's ``meta`` for the dimensions whose size follows the batch size."""


def batch_of(inputs: Any) -> int:
    """How many samples ``inputs`` (nested tensors) hold: the first dimension of the first tensor that has any; 0 where there is none."""
    sizes = (int(value.shape[0]) for value in pytree.tree_leaves(inputs) if isinstance(value, torch.Tensor) and value.dim())
    return next(sizes, 0)


def holds(value: Any, batch: int) -> bool:
    """Whether ``value`` is a tensor of ``batch`` samples."""
    return isinstance(value, torch.Tensor) and value.dim() > 0 and value.shape[0] == batch


def resized(inputs: Any, wanted: int) -> Any:
    """``inputs`` with their samples repeated, or cut, to ``wanted``; tensors that hold no samples stay."""
    batch = batch_of(inputs)

    def of(value: torch.Tensor) -> torch.Tensor:
        return torch.cat([value] * -(-wanted // batch))[:wanted] if holds(value, batch) else value

    return pytree.tree_map_only(torch.Tensor, of, inputs)


def generalized(module: fx.GraphModule, other: fx.GraphModule) -> bool:
    """Make ``module``, captured with a batch of 2, take any batch size: numbers in its nodes that are multiples of 3 where they were of 2
    in ``other``, captured with a batch of 3, become multiples of the batch size.  False, with nothing changed, when the graphs differ in
    anything else."""
    nodes, others = list(module.graph.nodes), list(other.graph.nodes)
    if [(node.op, str(node.target)) for node in nodes] != [(node.op, str(node.target)) for node in others]:
        return False
    pairs = [(node, _multiples((node.args, node.kwargs), (twin.args, twin.kwargs))) for node, twin in zip(nodes, others, strict=True)]
    if any(found is None for _, found in pairs):
        return False
    inputs = [node for node in nodes if node.op == "placeholder"]
    samples = next(node for node in inputs if holds(node.meta.get("val"), SIZES[0]))
    with module.graph.inserting_after(inputs[-1]):
        batch = module.graph.call_function(torch.ops.aten.sym_size.int, (samples, 0))
        batch.meta["val"] = SIZES[0]
    for (node, found), twin in zip(pairs, others, strict=True):
        node.meta[FOLLOWS] = _following(node, twin)
        if found:
            node.args, node.kwargs = _scaled(module.graph, node, batch, (node.args, node.kwargs), found)
    module.recompile()
    return True


def first_tensor(node: fx.Node) -> torch.Tensor | None:
    """What a node computes, of several tensors the first; None where it computes none."""
    value = node.meta.get("val")
    while isinstance(value, (list, tuple)):
        value = value[0] if value else None
    return value if isinstance(value, torch.Tensor) else None


def _following(node: fx.Node, twin: fx.Node) -> tuple[int, ...]:
    """The dimensions whose size follows the batch size."""
    value, other = first_tensor(node), first_tensor(twin)
    if value is None or other is None:
        return ()
    return tuple(dim for dim, (size, its) in enumerate(zip(value.shape, other.shape, strict=True)) if size != its)


def _multiples(value: Any, other: Any, path: tuple[Any, ...] = ()) -> set[tuple[Any, ...]] | None:
    """The places of the numbers that follow the batch size; None where the two differ in another way."""
    if isinstance(value, (list, tuple)):
        if len(value) != len(other):
            return None
        parts = [_multiples(item, twin, (*path, place)) for place, (item, twin) in enumerate(zip(value, other, strict=True))]
    elif isinstance(value, dict):
        if value.keys() != other.keys():
            return None
        parts = [_multiples(item, other[name], (*path, name)) for name, item in value.items()]
    elif isinstance(value, fx.Node):
        return set()
    elif type(value) is int and value != other:
        return {path} if value % SIZES[0] == 0 and other == value // SIZES[0] * SIZES[1] else None
    else:
        return set() if value == other or value is other else None
    known = [part for part in parts if part is not None]
    return set().union(*known) if len(known) == len(parts) else None


def _scaled(graph: fx.Graph, node: fx.Node, batch: fx.Node, value: Any, found: set[tuple[Any, ...]], path: tuple[Any, ...] = ()) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(_scaled(graph, node, batch, item, found, (*path, place)) for place, item in enumerate(value))
    if isinstance(value, dict):
        return {name: _scaled(graph, node, batch, item, found, (*path, name)) for name, item in value.items()}
    if path not in found:
        return value
    if value == SIZES[0]:
        return batch
    with graph.inserting_before(node):
        product = graph.call_function(operator.mul, (batch, value // SIZES[0]))
    product.meta["val"] = value
    return product
