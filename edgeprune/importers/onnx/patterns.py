"""What exporters spell out in primitive operators, found again: layer normalisation and GELU."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from edgeprune.importers.onnx.model import Graph, Node


def recognise(graph: Graph) -> int:
    """Replace what is found, in place; how many there were.  What is inside a pattern must be read nowhere else."""
    finder = _Finder(graph)
    found = 0
    for node in list(graph.nodes):
        for match in (_layer_norm, _gelu):
            made = match(finder, node)
            if made is not None:
                finder.replace(node, *made)
                found += 1
                break
    return found


@dataclass
class _Finder:
    graph: Graph

    def __post_init__(self) -> None:
        self.made = {name: node for node in self.graph.nodes for name in node.outputs}
        self.users = self.graph.uses()
        self.results = {one.name for one in self.graph.outputs}
        self.constants = dict(self.graph.constants)
        for node in self.graph.nodes:
            if node.op == "Constant" and isinstance(node.attributes.get("value"), Tensor):
                self.constants[node.outputs[0]] = node.attributes["value"]
            elif node.op == "Constant" and "value_float" in node.attributes:
                self.constants[node.outputs[0]] = torch.tensor(node.attributes["value_float"])

    def maker(self, name: str, *ops: str) -> Node | None:
        """What makes ``name``, if it is one of ``ops``."""
        node = self.made.get(name)
        return node if node is not None and node.op in ops and not node.domain else None

    def user(self, name: str, op: str) -> Node | None:
        """The only node that reads ``name``, if it is an ``op``."""
        users = self.users.get(name, [])
        return users[0] if len(users) == 1 and users[0].op == op and name not in self.results else None

    def number(self, name: str) -> float | None:
        """The number that ``name`` is."""
        found = self.constants.get(name)
        return float(found.flatten()[0]) if found is not None and found.numel() == 1 else None

    def other(self, node: Node, name: str) -> str:
        """The input of ``node`` beside ``name``."""
        return node.inputs[1] if node.inputs[0] == name else node.inputs[0]

    def near(self, node: Node, value: float) -> str | None:
        """The input of ``node`` that is not the number ``value``; None where neither is that."""
        for place in (0, 1):
            found = self.number(node.inputs[place])
            if found is not None and abs(found - value) <= 1e-4 * abs(value):
                return node.inputs[1 - place]
        return None

    def axes(self, node: Node) -> list[int] | None:
        """Dimensions of a mean that keeps them."""
        if not node.attributes.get("keepdims", 1):
            return None
        axes = node.attributes.get("axes")
        if axes is None and len(node.inputs) > 1 and node.inputs[1] in self.constants:
            axes = [int(axis) for axis in self.constants[node.inputs[1]].flatten()]
        return axes

    def replace(self, last: Node, node: Node, inner: list[Node]) -> None:
        """Put ``node`` in the place of ``last``; those of ``inner`` that nothing else reads go."""
        place = next(index for index, one in enumerate(self.graph.nodes) if one is last)
        self.graph.nodes[place] = node
        self.made |= dict.fromkeys(node.outputs, node)
        needed = self.graph.uses()
        for one in reversed(inner):
            if not any(name in needed or name in self.results for name in one.outputs):
                self.graph.nodes = [other for other in self.graph.nodes if other is not one]
                needed = self.graph.uses()
        self.users = self.graph.uses()


def _layer_norm(find: _Finder, node: Node) -> tuple[Node, list[Node]] | None:
    """``(x - mean) / sqrt(mean((x - mean)^2) + epsilon) * scale + bias``, seen from its addition."""
    if node.op != "Add":
        return None
    for bias in node.inputs:
        scaled = find.maker(find.other(node, bias), "Mul")
        if scaled is None or bias not in find.constants:
            continue
        for scale in scaled.inputs:
            core = _standardised(find, find.other(scaled, scale))
            if core is None or scale not in find.constants or find.constants[scale].dim() != 1:
                continue
            value, epsilon, inner = core
            if find.constants[bias].shape != find.constants[scale].shape:
                continue
            made = Node("LayerNormalization", node.name, "", max(node.version, 17), [value, scale, bias], list(node.outputs))
            made.attributes = {"axis": -1, "epsilon": epsilon}
            return made, [*inner, scaled]
    return None


def _standardised(find: _Finder, name: str) -> tuple[str, float, list[Node]] | None:
    """What is standardised along the last dimension, epsilon, and the nodes that do it."""
    divided = find.maker(name, "Div", "Mul")
    if divided is None:
        return None
    for place in (0, 1) if divided.op == "Mul" else (0,):
        centred, below = find.maker(divided.inputs[place], "Sub"), divided.inputs[1 - place]
        inner = [divided]
        if divided.op == "Mul":
            reciprocal = find.maker(below, "Reciprocal")
            if reciprocal is None:
                continue
            inner.append(reciprocal)
            below = reciprocal.inputs[0]
        spread = _deviation(find, below, centred)
        if centred is None or spread is None:
            continue
        mean = find.maker(centred.inputs[1], "ReduceMean")
        if mean is None or mean.inputs[0] != centred.inputs[0] or find.axes(mean) != [-1]:
            continue
        epsilon, nodes = spread
        return centred.inputs[0], epsilon, [mean, centred, *nodes, *reversed(inner)]
    return None


def _deviation(find: _Finder, name: str, centred: Node | None) -> tuple[float, list[Node]] | None:
    root = find.maker(name, "Sqrt")
    added = find.maker(root.inputs[0], "Add") if root is not None else None
    if root is None or added is None or centred is None:
        return None
    for place in (0, 1):
        epsilon, mean = find.number(added.inputs[place]), find.maker(added.inputs[1 - place], "ReduceMean")
        if epsilon is None or mean is None or find.axes(mean) != [-1]:
            continue
        square = find.maker(mean.inputs[0], "Pow", "Mul")
        if square is None or square.inputs[0] not in centred.outputs:
            continue
        twice = find.number(square.inputs[1]) == 2.0 if square.op == "Pow" else square.inputs[1] == square.inputs[0]
        if twice:
            return epsilon, [square, mean, added, root]
    return None


def _gelu(find: _Finder, node: Node) -> tuple[Node, list[Node]] | None:
    """``x * (1 + erf(x / sqrt(2))) * 0.5`` in any order, seen from its last product."""
    if node.op != "Mul":
        return None
    factors = _factors(find, node)
    if factors is None:
        return None
    names, inner = factors
    for name in names:
        added = find.maker(name, "Add")
        inside = find.near(added, 1.0) if added is not None else None
        error = find.maker(inside, "Erf") if inside is not None else None
        if added is None or error is None:
            continue
        rest = [other for other in names if other != name]
        halves = [other for other in rest if find.number(other) == 0.5]
        values = [other for other in rest if other not in halves]
        scaled = find.maker(error.inputs[0], "Div", "Mul")
        if len(halves) != 1 or len(values) != 1 or scaled is None:
            continue
        source = find.near(scaled, math.sqrt(2.0) if scaled.op == "Div" else math.sqrt(0.5))
        if source == values[0]:
            made = Node("Gelu", node.name, "", max(node.version, 20), [source], list(node.outputs), {"approximate": "none"})
            return made, [scaled, error, added, *inner]
    return None


def _factors(find: _Finder, node: Node) -> tuple[list[str], list[Node]] | None:
    """The three factors of a product of products."""
    for place in (0, 1):
        first = find.maker(node.inputs[place], "Mul")
        if first is not None and find.user(first.outputs[0], "Mul") is node:
            return [*first.inputs, node.inputs[1 - place]], [first]
    return None
