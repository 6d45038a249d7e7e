"""Recurrent layers kept whole through the conversion, on an ATen graph.

The converter would write out every step.  Each direction of each layer is replaced by a placeholder, ``edgeprune::recurrent``, which the
converter carries through as a composite with the weights as its inputs; :mod:`edgeprune.export.recurrent` then puts TFLite's own operators
in its place.
"""

from __future__ import annotations

import operator
from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from edgeprune.graph.rules.recurrent import CELLS, GATES
from edgeprune.tflite.recurrent.cell import GATES as _GATES

_ATEN: Any = torch.ops.aten
_KINDS = {_ATEN.lstm.input: "lstm", _ATEN.gru.input: "gru", _ATEN.rnn_tanh.input: "rnn_tanh", _ATEN.rnn_relu.input: "rnn_relu"}
_ZEROS = (_ATEN.zeros.default, _ATEN.zeros_like.default, _ATEN.new_zeros.default)
_MOVES = (
    _ATEN.expand.default,
    _ATEN.unsqueeze.default,
    _ATEN.repeat.default,
    _ATEN.clone.default,
    _ATEN.contiguous.default,
    _ATEN.to.dtype,
)

PREFIX = "edgeprune."
"""Of the names of placeholders in a converted file."""

LIBRARY: Any = torch.library.Library("edgeprune", "DEF")  # type: ignore[no-untyped-call]  # kept: its operators end with it
LIBRARY.define("recurrent(Tensor x, Tensor[] states, Tensor[] weights, str name, int[] sequence, int[] last) -> (Tensor, Tensor)")
PLACEHOLDER: Any = torch.ops.edgeprune.recurrent.default


@torch.library.impl(LIBRARY, "recurrent", "CompositeExplicitAutograd")
@torch.library.impl(LIBRARY, "recurrent", "Meta")
def _empty(
    x: Tensor, states: list[Tensor], weights: list[Tensor], name: str, sequence: list[int], last: list[int]
) -> tuple[Tensor, Tensor]:
    return x.new_zeros(sequence), x.new_zeros(last)


def keep_recurrent_layers(module: GraphModule) -> int:
    """Replace, in place, every recurrent node that TFLite has an operator or a loop for by placeholders; returns how many nodes."""
    nodes = [node for node in module.graph.nodes if node.target in _KINDS and kept_whole(node)]
    for node in nodes:
        _Layers(module.graph, node).replace()
    if nodes:
        module.graph.eliminate_dead_code()
        module.recompile()
    return len(nodes)


def kept_whole(node: Node) -> bool:
    """Whether a recurrent node can be replaced: stored float32 weights, float32 sequences, no dropout between layers."""
    arguments: Any = node.args
    x, _, parameters, _, _, dropout, train = arguments[:7]
    values = [x, *parameters]
    stored = all(isinstance(value, Node) and value.op in ("get_attr", "placeholder") for value in values[1:])
    return stored and not (train and dropout) and all(value.meta["val"].dtype == torch.float32 for value in values)


def unrolled(graph: Graph) -> Counter[str]:
    """How many recurrent nodes of which kind (``LSTMCell``, ``LSTM``) the converter writes out, step by step."""
    found: Counter[str] = Counter()
    for node in graph.nodes:
        name = getattr(node.target, "_opname", "")
        if node.target in CELLS:
            found["RNNCell" if name.startswith("rnn") else f"{name.partition('_')[0].upper()}Cell"] += 1
        elif node.target in GATES and not kept_whole(node):
            found["RNN" if name.startswith("rnn") else name.upper()] += 1
    return found


class _Layers:
    """The layers and directions of one recurrent node."""

    def __init__(self, graph: Graph, node: Node) -> None:
        arguments: Any = node.args
        self.x, start, self.parameters, self.biases, self.layers, _, _, bidirectional, batch_first = arguments
        self.graph, self.node, self.time = graph, node, int(bool(batch_first))
        self.start: list[Any] = list(start) if isinstance(start, (list, tuple)) else [start]
        self.directions = 1 + bool(bidirectional)
        target: Any = node.target
        self.kind, self.shape = _KINDS[target], list(self.x.meta["val"].shape)
        self.zero = all(map(_is_zero, self.start))
        readers: Any = node.users
        self.outputs: dict[int, Node] = {reader.args[1]: reader for reader in readers if reader.target is operator.getitem}

    def replace(self) -> None:
        with self.graph.inserting_before(self.node):
            x: Any = self.x
            ends: list[tuple[Node, ...]] = []
            for layer in range(self.layers):
                made = [self._direction(x, layer, direction) for direction in range(self.directions)]
                x = made[0][0] if self.directions == 1 else self._call(_ATEN.cat.default, [y for y, _ in made], 2)
                ends += [self._ends(y, last, reverse) for reverse, (y, last) in enumerate(made)]
            if self.directions == 1 and self.kind != "lstm":
                self._read_state_instead(ends[-1][0])
            results: list[Any] = [x, *(list(parts) for parts in zip(*ends, strict=True))]
            for place, reader in self.outputs.items():
                if reader.users:
                    result = results[place]
                    result = self._call(_ATEN.stack.default, result) if place else result
                    result.meta.setdefault("val", reader.meta["val"])
                    reader.replace_all_uses_with(result)
        for reader in [*self.outputs.values(), self.node]:
            self.graph.erase_node(reader)

    def _direction(self, x: Any, layer: int, direction: int) -> tuple[Node, Node]:
        """Output sequence and last cell state (LSTM) or hidden state of one direction of one layer."""
        place = layer * self.directions + direction
        per_cell = len(self.parameters) // (self.layers * self.directions)
        weights = self.parameters[place * per_cell : (place + 1) * per_cell]
        states = [] if self.zero else [self._call(_ATEN.select.int, state, 0, place) for state in self.start]
        words = (self.kind, "batch" if self.time else "time", "reverse" if direction else "forward", str(len(states)))
        name = PREFIX + ".".join((*words, "biases" if self.biases else "plain"))
        hidden = self.parameters[0].meta["val"].shape[0] // _GATES[self.kind]
        sequence = [*self.shape[:2], weights[1].meta["val"].shape[1]]
        both = self._call(PLACEHOLDER, x, states, list(weights), name, sequence, [self.shape[1 - self.time], hidden])
        return self._call(operator.getitem, both, 0), self._call(operator.getitem, both, 1)

    def _ends(self, y: Node, last: Node, reverse: int) -> tuple[Node, ...]:
        """The last states of a direction: hidden, and of an LSTM the cell's."""
        if self.kind != "lstm":
            return (last,)
        return self._call(_ATEN.select.int, y, self.time, 0 if reverse else self.shape[self.time] - 1), last

    def _read_state_instead(self, state: Node) -> None:
        """Where only the last step of the output is read, read the state: a loop then need not carry the output."""
        sequence = self.outputs.get(0)
        for user in list(sequence.users) if sequence else ():
            if user.target is _ATEN.select.int and user.args[1:] in ((self.time, -1), (self.time, self.shape[self.time] - 1)):
                user.replace_all_uses_with(state)
                self.graph.erase_node(user)

    def _call(self, target: Any, *arguments: Any) -> Node:
        made = self.graph.call_function(target, arguments)
        made.meta = {name: value for name, value in self.node.meta.items() if name != "val"}
        return made


def _is_zero(state: Any) -> bool:
    while isinstance(state, Node) and state.target in _MOVES:
        state = state.args[0]
    return isinstance(state, Node) and state.target in _ZEROS
