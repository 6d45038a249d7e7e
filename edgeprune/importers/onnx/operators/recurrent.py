"""Recurrent layers, as PyTorch has them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from edgeprune.importers.onnx.builder import Call
from edgeprune.importers.onnx.registry import operator
from edgeprune.importers.onnx.values import Size, Value

_ORDERS = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
"""Where each of PyTorch's gates is among ONNX's (iofc to ifgo, zrh to rzn)."""

_USUAL = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"], "RNN": ["tanh"]}


@operator("LSTM", "GRU", "RNN")
def recurrent(call: Call) -> list[Value | None]:
    """One layer, in one direction or both."""
    kind, module = call.node.op, _module(call)
    batch_first = bool(call.attribute("layout", 0))
    value = call.apply(torch.transpose, call[0], 0, 1) if batch_first else call[0]
    backwards = call.attribute("direction", "forward") == "reverse"
    if backwards:
        value = call.apply(torch.flip, value, (0,))
    state = _states(call, kind, batch_first)
    made = _layer(call, module, value, state, kind)
    out, last = call.parts(made, 2)
    if backwards:
        out = call.apply(torch.flip, out, (0,))
    directions = 2 if call.attribute("direction", "forward") == "bidirectional" else 1
    if directions == 1:
        out = call.apply(torch.unsqueeze, out, 1)
    else:
        out = call.apply(torch.permute, call.apply(torch.unflatten, out, 2, (2, call.attribute("hidden_size"))), (0, 2, 1, 3))
    results = [out, *(call.parts(last, 2) if kind == "LSTM" else [last])]
    if batch_first:
        results = [call.apply(torch.permute, out, (2, 0, 1, 3)), *(call.apply(torch.transpose, one, 0, 1) for one in results[1:])]
    return [*results]


def _layer(call: Call, module: nn.Module, value: Value, state: list[Value], kind: str) -> Value:
    if not state:
        return call.layer(module, value)
    if kind != "LSTM":
        return call.layer(module, value, state[0])
    return call.layer(_WithState(module), value, *state)


class _WithState(nn.Module):
    """An LSTM that takes its two states as arguments of their own."""

    def __init__(self, lstm: nn.Module) -> None:
        super().__init__()
        self.lstm = lstm

    def forward(self, value: Tensor, hidden: Tensor, cell: Tensor) -> Any:
        """As the layer."""
        return self.lstm(value, (hidden, cell))


def _states(call: Call, kind: str, batch_first: bool) -> list[Value]:
    """The states that it begins with; none where they are zero."""
    places = (5, 6) if kind == "LSTM" else (5,)
    given = [call.optional(place) for place in places]
    if all(one is None or (one.constant and not any(bool(example.any()) for example in one.examples)) for one in given):
        return []
    found = [call[place] for place in places]
    return [call.apply(torch.transpose, one, 0, 1) for one in found] if batch_first else found


def _module(call: Call) -> nn.Module:
    kind, hidden = call.node.op, call.attribute("hidden_size")
    _check(call, kind)
    inputs, state = call.fixed(1, "a weight"), call.fixed(2, "a weight")
    bias = call.fixed(3, "a bias") if call.optional(3) is not None else None
    types: dict[str, Any] = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}
    settings = {"nonlinearity": call.attribute("activations", ["Tanh"])[0].lower()} if kind == "RNN" else {}
    module: nn.Module = types[kind](inputs.shape[2], hidden, bias=bias is not None, bidirectional=len(inputs) == 2, **settings)
    for direction, suffix in enumerate(("l0", "l0_reverse")[: len(inputs)]):
        _fill(module, f"weight_ih_{suffix}", inputs[direction], kind, hidden)
        _fill(module, f"weight_hh_{suffix}", state[direction], kind, hidden)
        if bias is not None:
            first, second = bias[direction].chunk(2)
            _fill(module, f"bias_ih_{suffix}", first, kind, hidden)
            _fill(module, f"bias_hh_{suffix}", second, kind, hidden)
    return module


def _fill(module: nn.Module, name: str, stored: Tensor, kind: str, hidden: int) -> None:
    gates = torch.split(stored, hidden)
    with torch.no_grad():
        getattr(module, name).copy_(torch.cat([gates[place] for place in _ORDERS[kind]]))


def _check(call: Call, kind: str) -> None:
    given = [name.lower() for name in call.attribute("activations", [])]
    usual = _USUAL[kind]
    if (
        given
        and any(given[place : place + len(usual)] != usual for place in range(0, len(given), len(usual)))
        and not (kind == "RNN" and set(given) in ({"tanh"}, {"relu"}))
    ):
        call.refuse(f"has the activations {', '.join(given)}")
    if call.attribute("clip") is not None or call.attribute("input_forget", 0):
        call.refuse("clips its gates, or couples two of them")
    if call.optional(7) is not None and kind == "LSTM" and bool(call.fixed(7, "peepholes").any()):
        call.refuse("has peepholes")
    if kind == "GRU" and not call.attribute("linear_before_reset", 0):
        call.refuse("resets its state before the product, which PyTorch's GRU does not")
    lengths = call.optional(4)
    if lengths is not None:
        whole = call[0].shape[1 if call.attribute("layout", 0) else 0]
        if any(isinstance(size, Size) or size != whole for size in call.sizes(lengths)):
            call.refuse("takes sequences of different lengths")
