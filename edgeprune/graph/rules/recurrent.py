"""Recurrent layers: the hidden size is a group over all gates."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from edgeprune.graph.flow import Flow, ParamView, place_of
from edgeprune.graph.labels import along, no_labels
from edgeprune.graph.registry import rule

aten = torch.ops.aten
GATES: dict[Any, int] = {aten.lstm.input: 4, aten.gru.input: 3, aten.rnn_tanh.input: 1, aten.rnn_relu.input: 1}
CELLS: dict[Any, int] = {aten.lstm_cell.default: 4, aten.gru_cell.default: 3, aten.rnn_tanh_cell.default: 1, aten.rnn_relu_cell.default: 1}


@rule(*GATES)
def recurrent(
    flow: Flow, node: fx.Node, x: Any, start: Any, parameters: list[Any], has_biases: bool, layers: int, *rest: Any, **named: Any
) -> list[Tensor]:
    """All layers and directions.  The runtime has one hidden size for all of them: every one keeps equally many channels.

    ``start``: (layers * directions, N, H) first states; ``parameters``: for every layer and direction weights (gates * H, in) and
    (gates * H, out), biases (gates * H,), and with projections (P, H), of which the next layer sees the P.
    """
    reason, gates = place_of(node), GATES[node.target]
    states = list(start) if isinstance(start, (list, tuple)) else [start]
    directions = states[0].shape[0] // layers
    per_cell = len(parameters) // (layers * directions)
    source = flow.vector(x, -1, f"{reason}: its input's channels differ by position")
    hidden, outputs = [], []
    for layer in range(layers):
        results = []
        for direction in range(directions):
            first = (layer * directions + direction) * per_cell
            cell, result = _cell(flow, parameters[first : first + per_cell], source, gates, has_biases, reason)
            hidden.append(cell)
            results.append(result)
        outputs += results
        source = torch.cat(results)
    flow.balance(torch.stack(hidden), f"{reason} has one hidden size")
    if outputs[0] is not hidden[0]:
        flow.balance(torch.stack(outputs), f"{reason} has one projection size")
    return _results(flow, node, states, hidden, outputs, source, reason)


def _results(
    flow: Flow, node: fx.Node, states: list[Any], hidden: list[Tensor], outputs: list[Tensor], source: Tensor, reason: str
) -> list[Tensor]:
    """Labels of the output sequence and of the last states; the first states are as wide as those."""
    shapes = [tuple(int(size) for size in part.shape) for part in node.meta["val"]]
    last = [torch.stack(outputs)] if len(states) == 1 else [torch.stack(outputs), torch.stack(hidden)]
    ends = [
        labels.reshape(labels.shape[0], *[1] * (len(shape) - 2), -1).expand(shape) for labels, shape in zip(last, shapes[1:], strict=True)
    ]
    for state, labels in zip(states, ends, strict=True):
        flow.channels.unite(flow.labels(state), labels, f"{reason} starts from a given state")
    return [along(source, shapes[0], len(shapes[0]) - 1), *ends]


def _cell(flow: Flow, parameters: list[Any], source: Tensor, gates: int, has_biases: bool, reason: str) -> tuple[Tensor, Tensor]:
    """The channels of one layer in one direction: of its hidden state, and of what it gives on (its projection, or the same)."""
    w_input, w_hidden, *rest = parameters
    channels = flow.channels.fresh((w_input.shape[0] // gates,))
    rows = channels.repeat(gates)
    projection = rest[-1] if len(rest) == (3 if has_biases else 1) else None
    result = channels
    if projection is not None:
        result = flow.channels.fresh((projection.shape[0],))
        flow.produce(projection, 0, result.reshape(-1, 1), reason)
        flow.read(projection, 1, channels.reshape(1, -1), reason)
    for weight, read in ((w_input, source), (w_hidden, result)):
        flow.produce(weight, 0, rows.reshape(-1, 1), reason)
        flow.read(weight, 1, read.reshape(1, -1), reason)
    for bias in rest[:2] if has_biases else []:
        flow.produce(bias, 0, rows, reason)
    return channels, result


@rule(*CELLS)
def cell(flow: Flow, node: fx.Node, x: Any, start: Any, w_input: Any, w_hidden: Any, *biases: Any) -> Any:
    """One step of one layer."""
    reason, gates = place_of(node), CELLS[node.target]
    source = flow.vector(x, -1, f"{reason}: its input's channels differ by position")
    if not isinstance(w_input, ParamView) or not isinstance(w_hidden, ParamView):
        flow.channels.freeze(source, f"{reason}: its weight is computed, not stored")
        return [no_labels([int(size) for size in part.shape]) for part in node.meta["val"]]
    parameters = [w_input, w_hidden, *[bias for bias in biases if bias is not None]]
    channels, _ = _cell(flow, parameters, source, gates, len(parameters) > 2, reason)
    for state in start if isinstance(start, (list, tuple)) else [start]:
        labels = flow.labels(state)
        flow.channels.unite(labels, along(channels, labels.shape, labels.dim() - 1), f"{reason} starts from a given state")
    value = node.meta["val"]
    parts = value if isinstance(value, (list, tuple)) else [value]
    results = [along(channels, [int(size) for size in part.shape], part.dim() - 1) for part in parts]
    return results if isinstance(value, (list, tuple)) else results[0]
