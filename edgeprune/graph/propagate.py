"""The walk through a graph that calls every operation's rule."""

from __future__ import annotations

import operator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

import edgeprune.graph.rules  # noqa: F401  (registers them)
from edgeprune.errors import GraphError
from edgeprune.graph.capture import Captured
from edgeprune.graph.exported import tensor_at
from edgeprune.graph.flow import Flow, ParamView, along_stored, module_of, place_of, shape_of
from edgeprune.graph.labels import canonical, no_labels, squeeze_constant, varying
from edgeprune.graph.nodes import argument, compute
from edgeprune.graph.registry import rule_of


def propagate(captured: Captured, whole_heads: bool = True) -> Flow:
    """Walk the graph once, in order, and call every operation's rule."""
    flow = Flow(captured, whole_heads)
    for node in captured.module.graph.nodes:
        flow.values[node] = _step(flow, node)
    if captured.training is not None and captured.training.graph is not None:
        _follow_training(flow, captured, captured.training.graph)
    _keep_order(flow)
    _follow_used(flow)
    return flow


def _follow_training(flow: Flow, captured: Captured, module: fx.GraphModule) -> None:
    """Walk what a training step computes too: a parameter has the same channels there. Channels of layers that only training uses stay."""
    flow.captured = replace(captured, module=module)
    try:
        for node in module.graph.nodes:
            flow.values[node] = _step(flow, node)
    finally:
        flow.captured = captured
    used = {str(node.target) for node in captured.module.graph.nodes if node.op == "get_attr"}
    roots = flow.channels.roots()
    lasting = np.unique(
        np.concatenate([roots[squeeze_constant(labels).numpy()].ravel() for (name, _), labels in flow.owners.items() if name in used])
    )
    for (name, _), labels in list(flow.owners.items()):
        if name not in used:
            core = squeeze_constant(labels).flatten()
            flow.channels.freeze(core[~np.isin(roots[core.numpy()], lasting)], f"only training uses {name.rpartition('.')[0] or name}")


def _follow_used(flow: Flow) -> None:
    """Elements of a table that are never looked up go with those of the same column that are; a weight that is an operand too (its norm)
    has no channels of that operand's own."""
    for name, used in flow.used.items():
        owner = (name, tuple(range(used.dim())))
        if used.dim() > 1 and any(other[0] == name and other != owner for other in flow.owners):
            flow.channels.freeze(flow.owners[owner], f"{name} is a weight and an operand")
        if bool(used.all()):
            continue
        labels = flow.channels.resolve(flow.owners[owner].clone())
        places = used.flatten().nonzero().flatten()
        table = ParamView(name, used.shape, places)
        flow.owners[owner] = torch.where(used, labels, 0)  # what nothing reads stays
        for dim in range(used.dim()):
            vector = along_stored(table, dim, labels.flatten()[places], labels.flatten()[places])
            if vector is not None and bool((vector != 0).all()):
                flow.owners[owner] = vector.reshape([-1 if d == dim else 1 for d in range(used.dim())]).expand(used.shape)
                break


def _keep_order(flow: Flow) -> None:
    """Where channels still change along two dimensions that trade places (a channel shuffle), only whole columns may go.

    Otherwise what is left would stand in another order than in the original. The channels of a column are made one.
    """
    settled = False
    while not settled:
        settled = True
        for transposition in flow.transpositions:
            core = flow.channels.resolve(transposition.labels)
            dims = varying(core)
            if [dim for dim in transposition.order if dim in dims] != dims:
                settled, core = False, squeeze_constant(core)
                for dim in dims[:-1]:
                    flow.channels.unite(core, core.narrow(dim, 0, 1).expand(core.shape), transposition.reason)


def _step(flow: Flow, node: fx.Node) -> Any:
    if node.op == "placeholder":
        value = node.meta["val"]
        return no_labels(shape_of(node)) if isinstance(value, Tensor) else value
    if node.op == "get_attr":
        stored = tensor_at(flow.captured.module, str(node.target))
        return ParamView(str(node.target), stored.shape)
    args: Any = fx.map_arg(node.args, lambda n: flow.values[n])
    kwargs: Any = fx.map_arg(node.kwargs, lambda n: flow.values[n])
    if node.op == "output":
        for value in _tensors(args):
            flow.freeze(value, "reaches the model's output")
        return None
    if node.target is torch.ops.aten.sym_size.int:
        return shape_of(argument(node, 0))[args[1]]
    if node.op == "call_function" and not _tensors((args, kwargs)) and rule_of(node.target) is None:
        return _without_tensors(node, args, kwargs)
    if node.target is operator.getitem:
        return args[0][args[1]]
    known = rule_of(node.target)
    if known is None:
        return _unknown(flow, node, args, kwargs)
    result = known(flow, node, *args, **kwargs)
    return _checked(
        flow, node, result, max((len(varying(value)) for value in _tensors((args, kwargs)) if isinstance(value, Tensor)), default=0)
    )


def _without_tensors(node: fx.Node, args: Any, kwargs: Any) -> Any:
    value = node.meta.get("val")
    return no_labels(shape_of(node)) if isinstance(value, Tensor) else compute(node, *args, **kwargs)


def _checked(flow: Flow, node: fx.Node, result: Any, changing: int) -> Any:
    if isinstance(result, (list, tuple)):
        return [_balanced(flow, node, canonical(value), changing) if isinstance(value, Tensor) else value for value in result]
    if not isinstance(result, Tensor):
        return result
    if tuple(result.shape) != shape_of(node):
        raise GraphError(f"the rule of {node.target} gave shape {tuple(result.shape)} at {node.name}, not {shape_of(node)}")
    return _balanced(flow, node, canonical(result), changing)


def _balanced(flow: Flow, node: fx.Node, labels: Tensor, changing: int) -> Tensor:
    """A tensor must stay a box: where an operation spreads channels over more dimensions than before, every row keeps equally many."""
    dims = varying(labels)
    if len(dims) > max(changing, 1):
        flow.boxes.append((labels, f"shape at {place_of(node)}"))
    return labels


def _unknown(flow: Flow, node: fx.Node, args: Any, kwargs: Any) -> Any:
    flow.unsupported.append((node.name, str(node.target)))
    for value in _tensors((args, kwargs)):
        flow.freeze(value, f"reaches {node.target} in {module_of(node)}, which has no rule")
    value = node.meta.get("val")
    if isinstance(value, (list, tuple)):
        return [no_labels(tuple(int(size) for size in item.shape)) if isinstance(item, Tensor) else item for item in value]
    return no_labels(shape_of(node)) if isinstance(value, Tensor) else value


def _tensors(value: Any) -> list[Any]:
    if isinstance(value, (Tensor, ParamView)):
        return [value]
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in _tensors(item)]
    if isinstance(value, dict):
        return [tensor for item in value.values() for tensor in _tensors(item)]
    return []
