"""Parameters and multiply-accumulates that a plan leaves, counted from the graph."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from edgeprune.cost.kernels import CONTRACTIONS, VIEWS, Kernel, block_of
from edgeprune.cost.tensors import Tensors
from edgeprune.cost.width import WidthExpr, Widths, alive
from edgeprune.graph import Analysis
from edgeprune.graph.flow import name_of, shape_of
from edgeprune.graph.rules.contraction import CONVOLUTIONS, TRANSPOSED
from edgeprune.graph.rules.product import GROUPED, equation_of
from edgeprune.graph.rules.recurrent import CELLS, GATES

aten = torch.ops.aten

PRODUCTS: dict[Any, int] = {
    **dict.fromkeys(GROUPED, 0),
    **dict.fromkeys((aten.linear.default, aten.matmul.default, aten.mm.default, aten.bmm.default, aten.mv.default, aten.dot.default), 0),
    **dict.fromkeys((aten.addmm.default, aten.baddbmm.default), 1),
}
"""Products of two arrays, and which argument is the first of them."""

ALL = WidthExpr(1.0)


@dataclass(frozen=True)
class Term:
    """``count`` in the dense model, of which ``in_width * out_width`` stay (shares, 1 there); nothing without its ``block``."""

    count: float
    in_width: WidthExpr = ALL
    out_width: WidthExpr = ALL
    block: tuple[str, ...] = ()

    def at(self, in_width: float, out_width: float) -> float:
        """What is left at those shares."""
        return self.count * in_width * out_width


@dataclass(frozen=True)
class Counts:
    """``parameters`` and ``macs`` (of one inference, at the example's batch size) as sums of terms. ``loose``: of the parameters those that
    are not weights of a kernel: embeddings, normalisations that are not folded, and the like."""

    parameters: list[Term]
    macs: list[Term]
    loose: list[Term]


def parameters_of(model: nn.Module) -> int:
    """All of a model's parameters, as it is."""
    return sum(parameter.numel() for parameter in model.parameters())


def total(terms: Sequence[Term], widths: Widths) -> float:
    """The sum at those widths."""
    return sum(term.at(in_width, out_width) for term, in_width, out_width in alive(terms, widths))


def counts(analysis: Analysis, kernels: Sequence[Kernel]) -> Counts:
    """Of the graph that ``kernels`` are made from.  A multiply-accumulate is one of a convolution, a product of matrices, a recurrent layer
    or attention, as :class:`torch.utils.flop_counter.FlopCounterMode` counts them."""
    tensors, module = Tensors(analysis), analysis.captured.module
    heavy = {kernel.node for kernel in kernels if kernel.spec.kind in (*CONTRACTIONS, "depthwise_conv2d")}
    computed = {kernel.node for kernel in kernels}
    users = _users(module.graph)
    parameters, loose = [], []
    for name, value in module.named_parameters():
        block = next((block.groups for block in analysis.blocks if name in block.parameters), ())
        term = _term(value.numel(), tensors.parameter_shares(name), block)
        parameters.append(term)
        held = users.get(name, set())
        if held & computed and not held & heavy:
            loose.append(term)
    return Counts(parameters, [term for node in module.graph.nodes for term in _macs(tensors, node)], loose)


def _term(count: float, shares: tuple[WidthExpr, ...], block: tuple[str, ...]) -> Term:
    """No operation here has more than two factors that change apart from each other."""
    in_width, out_width = (*shares, ALL, ALL)[:2]
    return Term(count, in_width, out_width, block)


def _users(graph: fx.Graph) -> dict[str, set[fx.Node]]:
    """For every parameter the nodes that use it, past those that only give it another shape."""
    found: dict[str, set[fx.Node]] = {}
    for node in graph.nodes:
        if node.op == "call_function" and parameter_of(node) is None:
            for name in filter(None, map(parameter_of, node.all_input_nodes)):
                found.setdefault(name, set()).add(node)
    return found


def parameter_of(node: fx.Node) -> str | None:
    """The parameter or buffer that a node reads or only gives another shape; None for all that is computed."""
    while node.op == "call_function" and name_of(node) in VIEWS and node.all_input_nodes:
        node = node.all_input_nodes[0]
    return str(node.target) if node.op == "get_attr" else None


def _macs(tensors: Tensors, node: fx.Node) -> Iterator[Term]:
    """The terms of one node."""
    analysis = tensors.analysis
    block = block_of(analysis, node)
    for count, operands in _products(analysis, node):
        names = [parameter_of(operand) for operand in operands]
        shares = tuple(share for name in names if name is not None for share in tensors.parameter_shares(name))
        for name, operand in zip(names, operands, strict=True):
            if name is None:  # operands that carry the same channels lose them together
                shares += tuple(share for share in tensors.share(operand) if share not in shares)
        yield _term(count, shares, block)


def _products(analysis: Analysis, node: fx.Node) -> Iterator[tuple[float, list[fx.Node]]]:
    """(multiply-accumulates of the dense model, what is multiplied) for each product in a node."""
    extent, args = analysis.captured.extent, node.args
    if node.target in (*CONVOLUTIONS, *TRANSPOSED):
        x, weight = _nodes(args[:2])
        places = math.prod(extent(x if node.target in TRANSPOSED else node))
        yield float(places * math.prod(extent(weight)[1:])), [x, weight]
    elif node.target in PRODUCTS or str(node.target) in PRODUCTS:
        first = PRODUCTS.get(node.target, 0)
        x, y = _nodes(args[first : first + 2])
        yield float(math.prod(extent(node)) * extent(x)[-1]), [x, y]
    elif node.target is aten.einsum.default:
        operands = _nodes(args[1])
        if len(operands) == 2:
            parts, _ = equation_of(str(args[0]), [len(extent(value)) for value in operands])
            sizes = dict(zip("".join(parts), [size for value in operands for size in extent(value)], strict=True))
            yield float(math.prod(sizes.values())), operands
    elif node.target is aten.scaled_dot_product_attention.default:
        q, k, v = _nodes(args[:3])
        yield float(math.prod(extent(q)) * extent(k)[-2]), [q, k]
        yield float(math.prod(extent(q)[:-1]) * math.prod(extent(v)[-2:])), [v]
    elif node.target in GATES:
        places = math.prod(extent(node)[:-1])
        for weight in _nodes(args[2]):
            if len(shape_of(weight)) == 2:
                yield float(places * math.prod(shape_of(weight))), [weight]
    elif node.target in CELLS:
        for weight in _nodes(args[2:4]):
            yield float(math.prod(extent(node)[:-1]) * math.prod(shape_of(weight))), [weight]


def _nodes(values: Any) -> list[fx.Node]:
    return [value for value in values if isinstance(value, fx.Node)]
