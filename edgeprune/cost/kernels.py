"""The graph as the kernels a runtime really executes: batch norm folded, activations fused."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from edgeprune.cost.tensors import Tensors
from edgeprune.cost.width import WidthExpr
from edgeprune.graph import Analysis
from edgeprune.graph.flow import name_of, shape_of
from edgeprune.graph.nodes import argument
from edgeprune.graph.rules.contraction import CONVOLUTIONS, TRANSPOSED, groups_of
from edgeprune.graph.rules.recurrent import GATES
from edgeprune.graph.subsampling import subsampling

aten = torch.ops.aten

FUSED = frozenset({"relu", "relu_", "relu6", "relu6_", "hardtanh", "hardtanh_"})
"""Activations that TFLite folds into the kernel before them (and TorchScript's frozen graphs into theirs)."""

RECURRENT = ("lstm", "gru", "rnn")
"""One direction of a recurrent layer: from the channels of its input and of its state to those of all gates, one row of ``rows_out`` after
the other."""

CONTRACTIONS = ("conv2d", "transpose_conv2d", "fully_connected", *RECURRENT)
"""Kinds whose every output channel sums over all input channels (of its group)."""

OPERATIONS = {"lstm": 3, "rnn": 2, "gru": 18, "attention": 16, "attention_dimensions": 16, "layer_norm": 9}
"""How many operations the exporter writes for one kernel of a kind; for every step of a GRU, which is a loop."""

WEIGHTED = ("conv2d", "transpose_conv2d", "depthwise_conv2d", "fully_connected")
FOLDED_INTO = {"batch_norm": WEIGHTED, **dict.fromkeys(FUSED, (*WEIGHTED, "add", "mul"))}
"""The kinds of kernel that an operation disappears into when they alone feed it."""

VIEWS = frozenset({
    "view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "expand", "transpose", "permute", "t",
    "dropout", "dropout_", "feature_dropout", "contiguous", "clone", "detach", "alias", "to", "_to_copy", "sym_size",
    "getitem", "split", "split_with_sizes", "chunk", "unbind", "select",
})  # fmt: skip
KINDS = {
    **dict.fromkeys(("add", "add_", "sub", "sub_"), "add"),
    **dict.fromkeys(("mul", "mul_", "div", "div_"), "mul"),
    **dict.fromkeys(("hardswish", "hardswish_"), "hard_swish"),
    **dict.fromkeys(("sigmoid", "sigmoid_", "hardsigmoid", "hardsigmoid_", "silu", "silu_", "tanh", "gelu"), "sigmoid"),
    **dict.fromkeys(("mean", "adaptive_avg_pool2d", "adaptive_avg_pool1d"), "mean"),
    **dict.fromkeys(("max_pool2d", "max_pool1d"), "max_pool"),
    **dict.fromkeys(("avg_pool2d", "avg_pool1d"), "avg_pool"),
    "cat": "concat",
    **dict.fromkeys(("pad", "constant_pad_nd"), "pad"),
    "batch_norm": "mul",
}


@dataclass(frozen=True)
class KernelSpec:
    """All of a kernel but its widths. ``rows_in``/``rows_out``: (H, W) of input and output ((1, W) where there is one dimension).

    Of "attention", whose width is heads: (places, dimensions of a head) of the keys and the queries; of "attention_dimensions", whose width
    is all dimensions of the ``groups`` heads: (1, places).
    """

    kind: str
    rows_in: tuple[int, int]
    rows_out: tuple[int, int]
    window: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    groups: int = 1
    padded: bool = False

    @property
    def text(self) -> str:
        """A key for tables."""
        sizes = "x".join(str(value) for pair in (self.rows_in, self.rows_out, self.window, self.stride) for value in pair)
        return f"{self.kind}-{sizes}-g{self.groups}{'p' if self.padded else ''}"


@dataclass(frozen=True)
class Kernel:
    """One kernel. ``in_width``/``out_width``: widths of its (first) input and its output.

    ``block``: the groups of the removable block it goes with, if any. ``node``: the node whose value it computes (the last of the
    fused ones); ``parts``: the values it reads.
    """

    spec: KernelSpec
    in_width: WidthExpr
    out_width: WidthExpr
    node: fx.Node
    parts: tuple[fx.Node, ...]
    block: tuple[str, ...] = ()


def weights(spec: KernelSpec, in_width: float, out_width: float) -> float:
    """Elements of a kernel's weight array; 0 for one without."""
    if spec.kind in CONTRACTIONS:
        return math.prod(spec.window) * in_width * out_width / spec.groups
    return math.prod(spec.window) * out_width if spec.kind == "depthwise_conv2d" else 0.0


def macs(spec: KernelSpec, in_width: float, out_width: float) -> float:
    """Multiply-accumulates of a kernel of that spec and widths: each weight is used at every place."""
    if spec.kind.startswith("attention"):  # scores, and the sum they weigh
        queries, keys = attention_places(spec)
        return 2.0 * queries * keys * (spec.rows_out[1] if spec.kind == "attention" else 1) * out_width
    places = spec.rows_in if spec.kind == "transpose_conv2d" else spec.rows_out
    return math.prod(places) * weights(spec, in_width, out_width)


def attention_places(spec: KernelSpec) -> tuple[int, int]:
    """How many queries and keys."""
    dim = 0 if spec.kind == "attention" else 1
    return spec.rows_out[dim], spec.rows_in[dim]


def attention_heads(spec: KernelSpec, out_width: int) -> tuple[int, int]:
    """How many heads of how many dimensions are ``out_width`` wide."""
    return (out_width, spec.rows_out[1]) if spec.kind == "attention" else (spec.groups, out_width // spec.groups)


def moved_bytes(spec: KernelSpec, in_width: float, out_width: float) -> float:
    """Bytes read and written, float32: activations and weights once."""
    return 4.0 * (math.prod(spec.rows_in) * in_width + math.prod(spec.rows_out) * out_width + weights(spec, in_width, out_width))


def kernels(analysis: Analysis) -> list[Kernel]:
    """The kernels of one inference, in the order they run."""
    folder = _Folder(analysis)
    for node in analysis.captured.module.graph.nodes:
        if node.op == "call_function":
            folder.visit(node)
    return folder.found


def block_of(analysis: Analysis, node: fx.Node) -> tuple[str, ...]:
    """The groups of the removable block that a node goes with, if any."""
    return next((block.groups for block in analysis.blocks if node in block.nodes or node is block.addition), ())


class _Folder:
    def __init__(self, analysis: Analysis) -> None:
        self.analysis = analysis
        self.tensors = Tensors(analysis)
        self.found: list[Kernel] = []
        self.alias: dict[fx.Node, fx.Node] = {}  # a view or folded node -> the node whose memory it is
        self.place: dict[fx.Node, int] = {}  # the node a kernel computes -> the kernel

    def visit(self, node: fx.Node) -> None:
        if not isinstance(node.meta.get("val"), (Tensor, list, tuple)) or not _activations(node):
            return
        name = name_of(node)
        first = self._base(_activations(node)[0])
        unchanged = name == "slice" and shape_of(node) == shape_of(_activations(node)[0])
        if unchanged or name in VIEWS or self._foldable(first, node, FOLDED_INTO.get(name, ())):
            self.alias[node] = first
        else:
            self._append(node, name)

    def _append(self, node: fx.Node, name: str) -> None:
        parts = tuple(dict.fromkeys(self._base(part) for part in _activations(node)))
        axis = 1 if node.target in (*CONVOLUTIONS, *TRANSPOSED) else None
        out_width, rows_out = self.tensors.width(node, axis)
        in_width, rows_in = self.tensors.width(_activations(node)[0], axis)
        spec = self._spec(node, name, rows_in, rows_out)
        if spec.kind == "conv2d" and spec.groups > 1 and spec.groups == shape_of(_activations(node)[0])[1]:
            spec = KernelSpec("depthwise_conv2d", spec.rows_in, spec.rows_out, spec.window, spec.stride, 1, spec.padded)
        if spec.kind.startswith("attention"):
            heads, size = (self.analysis.captured.extent(node)[dim] for dim in (-3, -1))
            present = out_width.at({group.name: group.size for group in self.analysis.groups})
            out_width = out_width.scaled((heads if spec.kind == "attention" else heads * size) / (present or 1.0))
        if spec.kind not in CONTRACTIONS:
            in_width = out_width
        if node.target in GATES:
            self.found += self._recurrent(node, parts, (1, math.prod(rows_out)))
        self.place[node] = len(self.found)
        self.found.append(Kernel(spec, in_width, out_width, node, parts, block_of(self.analysis, node)))

    def _recurrent(self, node: fx.Node, parts: tuple[fx.Node, ...], rows: tuple[int, int]) -> list[Kernel]:
        """The kernels of a recurrent node: one for every layer and direction, and one for its projection."""
        matrices = [weight for weight in argument(node, 2) if len(shape_of(weight)) == 2]
        per_cell = len(matrices) // (int(argument(node, 4)) * (1 + bool(argument(node, 7))))
        kind = next(kind for kind in RECURRENT if name_of(node).startswith(kind))
        sizes = []
        for weight in matrices:
            name, shape = str(weight.target), shape_of(weight)
            sizes.append([self.tensors.parameter_width(name, dim, shape[dim]) for dim in (0, 1)])
        found, block = [], block_of(self.analysis, node)
        for first in range(0, len(matrices), per_cell):
            (out_width, in_width), (_, state), *projections = sizes[first : first + per_cell]
            found.append(Kernel(KernelSpec(kind, rows, rows), in_width + state, out_width, node, parts, block))
            found += [Kernel(KernelSpec("fully_connected", rows, rows), inner, outer, node, parts, block) for outer, inner in projections]
        return found

    def _spec(self, node: fx.Node, name: str, rows_in: tuple[int, int], rows_out: tuple[int, int]) -> KernelSpec:
        if node.target in TRANSPOSED:
            weight = argument(node, 1).meta["val"]
            window, stride = _pair(weight.shape[2:]), _pair(argument(node, 3, "stride", 1))
            return KernelSpec("transpose_conv2d", rows_in, rows_out, window, stride, groups_of(node))
        if node.target in CONVOLUTIONS:
            weight = argument(node, 1).meta["val"]
            window, stride = _pair(weight.shape[2:]), _pair(argument(node, 3, "stride", 1))
            padding = argument(node, 4, "padding", 0)
            padded = padding != "valid" and any(value for value in _pair(padding if not isinstance(padding, str) else 1))
            return KernelSpec("conv2d", rows_in, rows_out, window, stride, groups_of(node), padded)
        if name in ("linear", "addmm"):
            return KernelSpec("fully_connected", rows_in, rows_out)
        kind = KINDS.get(name, "copy")
        if kind in ("max_pool", "avg_pool"):
            window = _pair(node.args[1])
            stride = _pair(node.args[2]) if len(node.args) > 2 and node.args[2] else window
            return KernelSpec(kind, rows_in, rows_out, window, stride)
        if name == "scaled_dot_product_attention":
            return self._attention(node)
        if name == "layer_norm":
            return KernelSpec("layer_norm", rows_out, rows_out)
        if (strides := subsampling(node)) is not None:
            return KernelSpec("strided_slice", rows_in, rows_out, stride=strides)
        return KernelSpec(kind, rows_in if kind in ("mean", "pad", "copy") else rows_out, rows_out)

    def _attention(self, node: fx.Node) -> KernelSpec:
        """As wide as its heads, which may go; or as the dimensions of all heads, of which each loses as many."""
        *_, heads, queries, size = self.analysis.captured.extent(node)
        keys = self.analysis.captured.extent(argument(node, 1))[-2]
        if self.analysis.flow.whole_heads:
            return KernelSpec("attention", (keys, size), (queries, size))
        return KernelSpec("attention_dimensions", (1, keys), (1, queries), groups=heads)

    def _base(self, node: fx.Node) -> fx.Node:
        while node in self.alias:
            node = self.alias[node]
        return node

    def _foldable(self, first: fx.Node, node: fx.Node, kinds: tuple[str, ...]) -> bool:
        return first in self.place and self.found[self.place[first]].spec.kind in kinds and len(_activations(node)[0].users) == 1


def _activations(node: fx.Node) -> list[fx.Node]:
    return [part for part in node.all_input_nodes if part.op != "get_attr" and isinstance(part.meta.get("val"), (Tensor, list, tuple))]


def _pair(value: Any) -> tuple[int, int]:
    values = [int(v) for v in value] if isinstance(value, (list, tuple, torch.Size)) else [int(value)]
    return (1, values[0]) if len(values) == 1 and isinstance(value, (list, tuple, torch.Size)) else (values[0], values[-1])
