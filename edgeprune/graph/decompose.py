"""Operations without a rule, replaced by the operations that PyTorch makes them of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, fx
from torch._decomp import decomposition_table
from torch._ops import OpOverload
from torch.fx.experimental.proxy_tensor import make_fx

from edgeprune.graph.nodes import argument, with_values
from edgeprune.graph.registry import rule_of

aten = torch.ops.aten
DEPTH = 8
"""How often the operations that one is made of are taken apart in turn."""


def decompose_unknown(module: fx.GraphModule, depth: int = DEPTH) -> bool:
    """Take apart every operation of ``module`` that has no rule: one that writes in place into the plain one and a copy, others by
    PyTorch's own definitions.  What would leave operations without a rule stays as it is.  Whether all that is there now has one."""
    known = True
    for node in [node for node in module.graph.nodes if isinstance(node.target, OpOverload) and node.all_input_nodes]:
        if rule_of(node.target) is None:
            plain = _out_of_place(module, node)
            known &= rule_of(plain.target) is not None or (depth > 0 and _take_apart(module, plain, depth))
    module.graph.eliminate_dead_code()
    module.recompile()
    return known


def _out_of_place(module: fx.GraphModule, node: fx.Node) -> fx.Node:
    """The plain operation, with its result copied, in the place of one that writes in place; any other node itself."""
    name, _, overload = str(node.target).partition(".")[2].partition(".")
    packet = getattr(aten, name[:-1], None) if name.endswith("_") and not name.endswith("__") else None
    if packet is None or overload not in packet.overloads():
        return node
    with module.graph.inserting_before(node):
        plain = module.graph.call_function(getattr(packet, overload), node.args, node.kwargs)
        copy = module.graph.call_function(aten.copy_.default, (node.args[0], plain))
    plain.meta, copy.meta = dict(node.meta), dict(node.meta)
    node.replace_all_uses_with(copy)
    module.graph.erase_node(node)
    return plain


def _definition(target: OpOverload) -> Callable[..., Any] | None:
    if target._can_decompose():
        return target.decompose
    found: Callable[..., Any] | None = decomposition_table.get(target)
    return found


def _take_apart(module: fx.GraphModule, node: fx.Node, depth: int) -> bool:
    """Put operations that have rules in the place of ``node``; False where PyTorch does not define it by such."""
    definition, inputs = _definition(cast(OpOverload, node.target)), node.all_input_nodes
    if definition is None or any("val" not in part.meta for part in inputs):
        return False

    def call(*values: Any) -> Any:
        known = dict(zip(inputs, values, strict=True))
        return definition(*with_values(node.args, known.__getitem__), **with_values(node.kwargs, known.__getitem__))

    try:
        with torch.no_grad():
            traced = make_fx(call, tracing_mode="symbolic")(*(part.meta["val"] for part in inputs))
    except Exception:  # whatever a definition raises for these arguments
        return False
    if not decompose_unknown(traced, depth - 1):
        return False
    _inline(module, node, traced)
    return True


def _inline(module: fx.GraphModule, node: fx.Node, traced: fx.GraphModule) -> None:
    places = [part for part in traced.graph.nodes if part.op == "placeholder"]
    copies: dict[fx.Node, Any] = dict(zip(places, node.all_input_nodes, strict=True))
    with module.graph.inserting_before(node):
        result: Any = module.graph.graph_copy(traced.graph, copies)
    made = [copies[part] for part in traced.graph.nodes if part.op not in ("placeholder", "output")]
    for part in made:
        part.meta |= {key: node.meta[key] for key in ("nn_module_stack", "stack_trace") if key in node.meta}
        if part.op == "get_attr":
            name = f"_constant_{part.name}"
            module.register_buffer(name, getattr(traced, str(part.target)))
            part.target = name
    if isinstance(node.meta.get("val"), Tensor) or not isinstance(result, (list, tuple)):
        node.replace_all_uses_with(result)
    else:
        for user in list(node.users):
            user.replace_all_uses_with(result[argument(user, 1)])
            module.graph.erase_node(user)
    module.graph.erase_node(node)
