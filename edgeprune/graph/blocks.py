"""Residual branches that may go whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from edgeprune.graph.flow import Flow, ParamView, name_of
from edgeprune.graph.groups import Group
from edgeprune.graph.nodes import argument
from edgeprune.graph.rules.contraction import CONVOLUTIONS, TRANSPOSED

aten = torch.ops.aten
ADDITIONS = (aten.add.Tensor, aten.add_.Tensor)
NORMS = (aten.layer_norm.default, aten.group_norm.default)
LAST = (*CONVOLUTIONS, *TRANSPOSED, *NORMS, aten.linear.default, aten.batch_norm.default)
PRODUCTS = (aten.mul.Tensor, aten.mul_.Tensor)
THROUGH = frozenset({
    "dropout", "dropout_", "feature_dropout", "mul", "mul_", "div", "permute", "transpose", "view", "reshape", "_unsafe_view", "flatten",
    "unflatten", "squeeze", "unsqueeze", "contiguous", "clone", "slice", "roll", "alias", "to", "movedim", "select", "getitem",
})  # fmt: skip
"""Operations whose result is zero where their first operand is (of products, either)."""


@dataclass(frozen=True)
class Block:
    """A residual branch: ``addition`` adds its result to ``shortcut``, and nothing else reads anything of ``nodes``.

    ``groups``: the groups that live inside it; keeping none of their channels removes the block. ``last``: weight and bias of its
    last layer, which are
    zero in the masked original. ``parameters``: all that only the branch uses.
    """

    name: str
    addition: fx.Node
    shortcut: fx.Node
    nodes: frozenset[fx.Node]
    groups: tuple[str, ...]
    last: tuple[str, ...]
    parameters: frozenset[str]


def find_blocks(flow: Flow, groups: list[Group]) -> list[Block]:
    """All removable blocks, innermost branch first at every addition."""
    found: list[Block] = []
    taken: set[str] = set()
    for node in flow.captured.module.graph.nodes:
        if node.target not in ADDITIONS or len([part for part in node.args if isinstance(part, fx.Node)]) != 2:
            continue
        for branch, shortcut in ((node.args[0], node.args[1]), (node.args[1], node.args[0])):
            block = _block(flow, groups, node, branch, shortcut)
            if block is not None and not taken & set(block.groups):
                taken |= set(block.groups)
                found.append(block)
                break
    return found


def _block(flow: Flow, groups: list[Group], addition: fx.Node, branch: fx.Node, shortcut: fx.Node) -> Block | None:
    values = [flow.values.get(node) for node in (addition, branch, shortcut)]
    if len({tuple(value.shape) if isinstance(value, Tensor) else None for value in values}) != 1 or not isinstance(values[0], Tensor):
        return None
    final = _final_layer(branch)
    if final is None:
        return None
    places = (2, 3) if final.target in NORMS else (1, 2)
    stored = [flow.values.get(argument(final, place)) for place in places if len(final.args) > place]
    if not stored or not isinstance(stored[0], ParamView):
        return None
    nodes = _only_for(addition, branch)
    used = {flow.values[part].name for node in nodes for part in node.all_input_nodes if part.op == "get_attr"}
    shared = {flow.values[node].name for node in flow.captured.module.graph.nodes if node.op == "get_attr" and set(node.users) - nodes}
    own = frozenset(used - shared)
    inside = tuple(group.name for group in groups if {*group.producers, *group.readers} <= own)
    last = tuple(value.name for value in stored if isinstance(value, ParamView))
    if not inside or not set(last) <= own:
        return None
    name = last[0].rpartition(".")[0].rpartition(".")[0] or addition.name
    return Block(name, addition, shortcut, nodes, inside, last, own)


def _final_layer(branch: Any) -> fx.Node | None:
    """The layer that makes the branch's result zero when its weight and bias are."""
    if not isinstance(branch, fx.Node) or branch.op != "call_function":
        return None
    if branch.target in LAST:
        return branch
    if name_of(branch) not in THROUGH:
        return None
    operands = branch.args[:2] if branch.target in PRODUCTS else branch.args[:1]
    return next((layer for layer in map(_final_layer, operands) if layer is not None), None)


def _only_for(addition: fx.Node, branch: fx.Node) -> frozenset[fx.Node]:
    """The nodes that are computed for nothing but ``branch``."""
    nodes = {branch}
    if set(branch.users) != {addition}:
        return frozenset()
    pending = [branch]
    while pending:
        for part in pending.pop().all_input_nodes:
            if part.op == "call_function" and part not in nodes and set(part.users) <= nodes:
                nodes.add(part)
                pending.append(part)
    return frozenset(nodes)
