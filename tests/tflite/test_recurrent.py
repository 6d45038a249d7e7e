"""Recurrent layers in TFLite files compute what PyTorch's do, at every inference, in the interpreter and in TFLite Micro."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from torch import Tensor, nn

from edgeprune.export.parity import sqnr_db
from edgeprune.tflite import schema as flatbuffer
from edgeprune.tflite.file import TfliteFile
from edgeprune.tflite.interpreter import invoke, open_tflite, value_of
from edgeprune.tflite.ranges import Ranges
from edgeprune.tflite.recurrent import Cell, Mode, Places, write

STEPS, INPUTS, HIDDEN = 12, 5, 8
KINDS = ("lstm", "gru", "rnn_tanh", "rnn_relu")


class Layer:
    """One direction of one PyTorch layer, with three inferences of it."""

    def __init__(self, kind: str, *, time_major: bool = False, reverse: bool = False, states: bool = False, projection: int = 0) -> None:
        torch.manual_seed(0)
        made: dict[str, Any] = {"batch_first": not time_major}
        if kind.startswith("rnn"):
            made["nonlinearity"] = kind.removeprefix("rnn_")
        if projection:
            made["proj_size"] = projection
        self.module = {"lstm": nn.LSTM, "gru": nn.GRU}.get(kind, nn.RNN)(INPUTS, HIDDEN, **made)
        held = {name: value.detach().numpy() for name, value in self.module.named_parameters()}
        weights = [held[f"{name}_l0"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        self.cell = Cell(kind, *weights, held.get("weight_hr_l0"), time_major, reverse)
        shape = (STEPS, 1, INPUTS) if time_major else (1, STEPS, INPUTS)
        sizes = [self.cell.output, HIDDEN][: (1 + (kind == "lstm")) if states else 0]
        self.inferences = [[torch.randn(shape), *(torch.rand(1, size) - 0.5 for size in sizes)] for _ in range(3)]

    def expected(self, inference: list[Tensor]) -> list[Tensor]:
        """The output sequence, and the last cell state (LSTM) or hidden state."""
        x, *states = inference
        turned = x.flip(self.cell.time) if self.cell.reverse else x
        start = [state[None] for state in states]
        with torch.no_grad():
            y, last = self.module(turned, *([tuple(start)] if len(start) == 2 else start))
        y = y.flip(self.cell.time) if self.cell.reverse else y
        return [y, last[1][0] if isinstance(last, tuple) else last[0]]

    def file(self, mode: Mode = "float") -> bytes:
        """A TFLite file of float32 inputs and outputs."""
        file = empty()
        shapes = [tuple(value.shape) for value in self.inferences[0]]
        inputs = [file.new_tensor(f"input{place}", shape, np.float32) for place, shape in enumerate(shapes)]
        y, last = (
            file.new_tensor(name, tuple(value.shape), np.float32)
            for name, value in zip("yl", self.expected(self.inferences[0]), strict=True)
        )
        ranges = Ranges()
        for x, *states in self.inferences:
            self.cell.run(x.numpy(), [state.numpy() for state in states], ranges)
        ends = Places(inputs[0], y, inputs[1:], last)
        if mode == "int8":
            x8 = file.new_tensor("x8", file.shape(inputs[0]), np.int8, scale=ranges.int8("x"))
            y8 = file.new_tensor("y8", file.shape(y), np.int8, scale=ranges.int8("h"))
            file.add_operator(0, "QUANTIZE", [inputs[0]], [x8], ("QuantizeOptions", schema.QuantizeOptionsT()))
            file.add_operator(1, "DEQUANTIZE", [y8], [y], ("DequantizeOptions", schema.DequantizeOptionsT()), 2)
            ends = Places(x8, y8, inputs[1:], last)
        write(file, 1 if mode == "int8" else 0, self.cell, ends, "layer", mode, ranges)
        file.graph.inputs, file.graph.outputs = np.array(inputs, np.int32), np.array([y, last], np.int32)
        return file.pack()

    def least_db(self, outputs: list[list[Tensor]]) -> float:
        """The least ratio of signal to error over all outputs of the inferences."""
        pairs = zip(map(self.expected, self.inferences), outputs, strict=True)
        return min(sqnr_db(want, got) for expected, got_all in pairs for want, got in zip(expected, got_all, strict=True))


def empty() -> TfliteFile:
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.description, model.operatorCodes, model.buffers = 3, b"test", [], [schema.BufferT()]
    graph.tensors, graph.operators, graph.name = [], [], b"main"
    model.subgraphs = [graph]
    return TfliteFile(model)


def run(content: bytes, inferences: list[list[Tensor]]) -> list[list[Tensor]]:
    """One interpreter, several inferences."""
    interpreter, found = open_tflite(content), []
    for inference in inferences:
        invoke(interpreter, inference)
        found.append([value_of(interpreter, detail).clone() for detail in interpreter.get_output_details()])
    return found


@pytest.mark.parametrize(("time_major", "reverse", "states"), product((False, True), repeat=3))
@pytest.mark.parametrize("kind", KINDS)
def test_every_inference_computes_what_pytorch_does(kind: str, time_major: bool, reverse: bool, states: bool) -> None:
    layer = Layer(kind, time_major=time_major, reverse=reverse, states=states)
    assert layer.least_db(run(layer.file(), layer.inferences)) > 100


@pytest.mark.parametrize(("reverse", "states"), product((False, True), repeat=2))
@pytest.mark.parametrize("kind", KINDS)
def test_int8_is_near(kind: str, reverse: bool, states: bool) -> None:
    layer = Layer(kind, reverse=reverse, states=states)
    assert layer.least_db(run(layer.file("int8"), layer.inferences)) > 25


@pytest.mark.parametrize(("mode", "least"), [("hybrid", 25), ("fp16", 50)])
@pytest.mark.parametrize("kind", KINDS)
def test_small_weights_are_near(kind: str, mode: Mode, least: float) -> None:
    layer = Layer(kind, states=True)
    assert layer.least_db(run(layer.file(mode), layer.inferences)) > least


@pytest.mark.parametrize(("mode", "least"), [("float", 100), ("int8", 18)])
def test_a_projection(mode: Mode, least: float) -> None:
    layer = Layer("lstm", projection=3)
    assert layer.least_db(run(layer.file(mode), layer.inferences)) > least


def test_without_the_operators_that_set_the_state_the_second_inference_differs() -> None:
    layer = Layer("lstm")
    file = TfliteFile(layer.file())
    file.graph.operators = [entry for entry in file.operators if file.operation(entry) != "FILL"]
    outputs = run(file.pack(), layer.inferences)
    assert sqnr_db(layer.expected(layer.inferences[0])[0], outputs[0][0]) > 100
    assert sqnr_db(layer.expected(layer.inferences[1])[0], outputs[1][0]) < 40


@pytest.mark.parametrize(
    ("kind", "operation"), [("lstm", "UNIDIRECTIONAL_SEQUENCE_LSTM"), ("rnn_tanh", "UNIDIRECTIONAL_SEQUENCE_RNN"), ("gru", "WHILE")]
)
def test_the_file_does_not_grow_with_the_steps(kind: str, operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    few = Layer(kind).file()
    monkeypatch.setattr(f"{__name__}.STEPS", 10 * STEPS)
    many = Layer(kind).file()
    names = [[name for name, *_ in flatbuffer.operators(flatbuffer.read(content))] for content in (few, many)]
    assert names[0] == names[1]
    assert operation in names[0]
    assert abs(len(many) - len(few)) <= 64


@pytest.mark.parametrize("states", [False, True])
@pytest.mark.parametrize(("kind", "mode"), [("lstm", "float"), ("gru", "float"), *((kind, "int8") for kind in KINDS)])
def test_tflite_micro_runs_it(kind: str, mode: Mode, states: bool) -> None:
    runtime = pytest.importorskip("tflite_micro").runtime
    layer = Layer(kind, states=states)
    interpreter, outputs = runtime.Interpreter.from_bytes(layer.file(mode), arena_size=100_000), []
    for inference in layer.inferences:
        for place, value in enumerate(inference):
            interpreter.set_input(value.numpy(), place)
        interpreter.invoke()
        outputs.append([torch.from_numpy(interpreter.get_output(place).copy()) for place in range(2)])
    assert layer.least_db(outputs) > (100 if mode == "float" else 25)
