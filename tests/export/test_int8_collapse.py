"""What eight bits would spoil stays float in an int8 file, and its inputs and outputs are of the types promised."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema

from edgeprune.errors import ExportError
from edgeprune.export.ends import require_types
from edgeprune.export.parity import fidelity
from edgeprune.export.quantize import quantize
from edgeprune.tflite import schema as flatbuffer
from edgeprune.tflite.builder import Builder
from edgeprune.tflite.interpreter import invoke, open_tflite, value_of
from edgeprune.tflite.trial import require_runs

FLOAT32, INT8 = schema.TensorType.FLOAT32, schema.TensorType.INT8
LOWEST = float(np.finfo(np.float32).min)


class Graph(Builder):
    """A float graph by methods named after operators; every tensor is a number."""

    def constant(self, values: object) -> int:
        array = np.asarray(values, np.float32)
        return self.tensor(array.shape, array)

    def two(self, name: str, one: int, other: int, shape: tuple[int, ...]) -> int:
        made, options = self.tensor(shape), f"{name.title()}Options"
        self.op(name, [one, other], made, options, getattr(schema, f"{options}T")())
        return made

    def softmax(self, x: int, shape: tuple[int, ...]) -> int:
        made, options = self.tensor(shape), schema.SoftmaxOptionsT()
        options.beta = 1.0
        self.op("SOFTMAX", [x], made, "SoftmaxOptions", options)
        return made

    def one(self, name: str, x: int, shape: tuple[int, ...]) -> int:
        made = self.tensor(shape)
        self.op(name, [x], made)
        return made

    def join(self, parts: list[int], shape: tuple[int, ...], axis: int) -> int:
        made, options = self.tensor(shape), schema.ConcatenationOptionsT()
        options.axis = axis
        self.op("CONCATENATION", parts, made, "ConcatenationOptions", options)
        return made

    def signed(self, inputs: list[int], outputs: list[int]) -> bytes:
        """The file, with the signature that calibration needs."""
        model = flatbuffer.read(self.build(inputs, outputs))
        signature = schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = b"serving_default", 0
        for side, tensors in (("inputs", inputs), ("outputs", outputs)):
            entries = []
            for place, tensor in enumerate(tensors):
                entry = schema.TensorMapT()
                entry.name, entry.tensorIndex = f"{side}_{place}".encode(), tensor
                entries.append(entry)
            setattr(signature, side, entries)
        model.signatureDefs = [signature]
        return flatbuffer.pack(model)


def samples(*shapes: tuple[int, ...], count: int = 16) -> list[tuple[torch.Tensor, ...]]:
    generator = torch.Generator().manual_seed(0)
    return [tuple(torch.randn(*shape, generator=generator) for shape in shapes) for _ in range(count)]


def int8(content: bytes, inputs: list[tuple[torch.Tensor, ...]], *, integer_io: bool = False) -> bytes:
    made = quantize(content, "int8", [tuple(value.numpy() for value in sample) for sample in inputs], integer_io=integer_io)
    require_runs(made, "the int8 file")
    return made


def outputs(content: bytes, inputs: list[tuple[torch.Tensor, ...]]) -> list[list[torch.Tensor]]:
    interpreter, found = open_tflite(content), []
    for sample in inputs:
        invoke(interpreter, sample)
        found.append([value_of(interpreter, detail) for detail in interpreter.get_output_details()])
    return found


def worst(content: bytes, made: bytes, inputs: list[tuple[torch.Tensor, ...]]) -> list[float]:
    """The largest error of each output."""
    pairs = zip(outputs(content, inputs), outputs(made, inputs), strict=True)
    return [
        max(values) for values in zip(*([float((a - b).abs().max()) for a, b in zip(x, y, strict=True)] for x, y in pairs), strict=True)
    ]


def kinds(content: bytes) -> dict[str, set[int]]:
    """By operator, the types of what they make."""
    found: dict[str, set[int]] = {}
    for name, _, operator, graph in flatbuffer.operators(flatbuffer.read(content)):
        found.setdefault(name, set()).add(graph.tensors[operator.outputs[0]].type)
    return found


@pytest.mark.parametrize("mask", [LOWEST, -math.inf, -1e30, -1e9, -1e4])
def test_a_mask_that_is_added_leaves_addition_and_softmax_float(mask):
    graph, shape = Graph(), (1, 8, 8)
    x = graph.tensor(shape)
    scaled = graph.two("MUL", x, graph.constant([2.0]), shape)
    masked = graph.two("ADD", scaled, graph.constant(np.triu(np.full(shape, mask, np.float32), 1)), shape)
    content = graph.signed([x], [graph.softmax(masked, shape)])
    inputs = samples(shape)
    made = int8(content, inputs)
    assert worst(content, made, inputs)[0] < 0.02
    assert kinds(made)["ADD"] == kinds(made)["SOFTMAX"] == {FLOAT32}
    assert kinds(made)["MUL"] == {INT8}


def test_a_mask_that_is_computed_from_an_input_does_too():
    graph, shape, row = Graph(), (1, 8, 8), (1, 1, 8)
    x, keep = graph.tensor(shape), graph.tensor(row)
    away = graph.two("MUL", graph.two("SUB", graph.constant([1.0]), keep, row), graph.constant([LOWEST]), row)
    content = graph.signed([x, keep], [graph.softmax(graph.two("ADD", x, away, shape), shape)])
    inputs = [(x, (keep > -0.5).float()) for x, keep in samples(shape, row)]
    made = int8(content, inputs)
    assert worst(content, made, inputs)[0] < 0.02
    assert kinds(made)["ADD"] == {FLOAT32}
    assert kinds(made)["SUB"] == {INT8}, "ones and zeros do"


def test_softmax_without_a_mask_is_int8():
    graph, shape = Graph(), (1, 8, 8)
    x = graph.tensor(shape)
    content = graph.signed([x], [graph.softmax(graph.two("ADD", x, graph.constant(np.ones(shape)), shape), shape)])
    assert kinds(int8(content, samples(shape)))["SOFTMAX"] == {INT8}


def test_boxes_in_pixels_and_scores_keep_a_scale_each():
    graph, part = Graph(), (1, 4, 32)
    x, y = graph.tensor(part), graph.tensor(part)
    boxes = graph.two("MUL", graph.one("LOGISTIC", x, part), graph.constant([320.0]), part)
    joined = graph.join([boxes, graph.one("LOGISTIC", y, part)], (1, 8, 32), 1)
    content = graph.signed([x, y], [graph.move("TRANSPOSE", joined, (1, 32, 8), (0, 2, 1))])
    inputs = samples(part, part)
    made = int8(content, inputs)
    assert kinds(made)["CONCATENATION"] == kinds(made)["TRANSPOSE"] == {FLOAT32}
    assert kinds(made)["LOGISTIC"] == {INT8}
    scores = [(a[0][..., 4:], b[0][..., 4:]) for a, b in zip(outputs(content, inputs), outputs(made, inputs), strict=True)]
    assert max(float((a - b).abs().max()) for a, b in scores) < 0.01
    forced = int8(content, inputs, integer_io=True)
    found = fidelity(outputs(content, inputs), outputs(forced, inputs))
    assert found.sqnr_db > 40, "all of it is near"
    assert not found.good
    assert "rows 4 to 7 of its axis 2 lost" in str(found)


def test_parts_of_one_size_are_joined_in_int8():
    graph, part = Graph(), (1, 4, 32)
    x, y = graph.tensor(part), graph.tensor(part)
    joined = graph.join([graph.one("LOGISTIC", x, part), graph.one("LOGISTIC", y, part)], (1, 8, 32), 1)
    made = int8(graph.signed([x, y], [joined]), samples(part, part))
    assert kinds(made)["CONCATENATION"] == {INT8}


def test_an_angle_beside_a_distance_is_lost_though_the_larger_is_always_the_same():
    want = [[torch.tensor([[0.1 * step - 0.5, 700.0 * (-1) ** step]])] for step in range(16)]
    got = [[torch.round(output / 6.0) * 6.0] for (output,) in want]
    found = fidelity(want, got)
    assert (found.agreement, found.good) == (1.0, False)
    assert "row 0 of its axis 1 lost" in str(found)


def test_noisy_scores_of_one_size_are_judged_by_their_classes():
    generator = torch.Generator().manual_seed(0)
    want = [[torch.randn(1, 10, generator=generator)] for _ in range(64)]
    got = [[output + 0.5 * output.abs() * torch.eye(10)[output.argmax()]] for (output,) in want]
    assert fidelity(want, got).good


def test_division_stays_float():
    graph, shape = Graph(), (1, 16)
    x, y = graph.tensor(shape), graph.tensor(shape)
    content = graph.signed([x, y], [graph.two("DIV", x, graph.two("ADD", y, graph.constant([9.0]), shape), shape)])
    made = int8(content, samples(shape, shape))
    assert kinds(made)["DIV"] == {FLOAT32}
    assert kinds(made)["ADD"] == {INT8}


def test_an_integer_output_of_a_float_division_is_integer():
    graph, shape = Graph(), (1, 16)
    x = graph.tensor(shape)
    content = graph.signed([x], [graph.two("DIV", graph.constant([1.0]), graph.two("ADD", x, graph.constant([9.0]), shape), shape)])
    made = int8(content, samples(shape), integer_io=True)
    ends = flatbuffer.read(made).subgraphs[0]
    assert ends.tensors[ends.outputs[0]].type == INT8
    assert kinds(made)["DIV"] == {FLOAT32}


def net() -> tuple[Graph, int, int, int]:
    """Features that are read further, and the scores computed from them."""
    graph = Graph()
    x = graph.tensor((1, 16))
    features, scores = graph.tensor((1, 16)), graph.tensor((1, 16))
    for source, made in ((x, features), (features, scores)):
        graph.op("FULLY_CONNECTED", [source, graph.weights(16, 16), -1], made, "FullyConnectedOptions", schema.FullyConnectedOptionsT())
    return graph, x, features, scores


@pytest.mark.parametrize("order", ["scores, features", "features, scores", "features, features, scores", "x, features, scores"])
@pytest.mark.parametrize("integer_io", [False, True])
def test_an_output_that_is_read_further_is_an_output_of_the_promised_type(order, integer_io):
    graph, x, features, scores = net()
    named = {"x": x, "features": features, "scores": scores}
    content = graph.signed([x], [named[name] for name in order.split(", ")])
    inputs = samples((1, 16))
    made = int8(content, inputs, integer_io=integer_io)
    ends = flatbuffer.read(made).subgraphs[0]
    assert {ends.tensors[index].type for index in ends.outputs} == {INT8 if integer_io else FLOAT32}
    assert all(error < 0.06 for error in worst(content, made, inputs))
    assert "RESHAPE" not in kinds(made), "no copy is left"


def test_a_state_has_one_scale_going_in_and_coming_out():
    graph, shape = Graph(), (1, 16)
    x, state = graph.tensor((1, 4)), graph.tensor(shape)
    after = graph.two("ADD", graph.two("MUL", state, graph.constant([0.5]), shape), graph.constant(np.full(16, 3.0)), shape)
    made = int8(graph.signed([x, state], [graph.one("TANH", x, (1, 4)), after]), samples((1, 4), shape), integer_io=True)
    ends = flatbuffer.read(made).subgraphs[0]
    into, out = (ends.tensors[index].quantization for index in (ends.inputs[1], ends.outputs[1]))
    assert (into.scale[0], into.zeroPoint[0]) == (out.scale[0], out.zeroPoint[0])


def test_a_type_that_was_not_promised_is_an_error():
    graph, shape = Graph(), (1, 16)
    x = graph.tensor(shape)
    content = graph.signed([x], [graph.one("LOGISTIC", x, shape)])
    made = int8(content, samples(shape), integer_io=True)
    with pytest.raises(ExportError, match=r"tflite-int8: input 0 \(t0\) has type int8, not float32"):
        require_types("tflite-int8", content, made, integer_io=False)


def test_a_file_that_aborts_its_interpreter_is_refused_by_operator():
    graph, shape = Graph(), (1, 8)
    x = graph.tensor(shape)
    content = graph.signed([x], [graph.two("ADD", x, graph.constant([1.0]), shape)])
    model = flatbuffer.read(int8(content, samples(shape)))
    (added,) = [operator for name, _, operator, _ in flatbuffer.operators(model) if name == "ADD"]
    model.subgraphs[0].tensors[added.inputs[1]].quantization.scale = [math.inf]
    with pytest.raises(ExportError, match=r"the candidate ended its process by SIGABRT.*the range of ADD t2 is infinite"):
        require_runs(flatbuffer.pack(model), "the candidate")


@pytest.mark.parametrize("scale", [1e5, 1e-6])
def test_float16_leaves_what_it_does_not_hold(scale):
    graph, x, _, scores = net()
    for buffer in graph.buffers[1:2]:
        values = np.frombuffer(bytes(bytearray(buffer.data)), np.float32) * scale / 0.1
        buffer.data = np.frombuffer(values.astype(np.float32).tobytes(), np.uint8)
    content, inputs = graph.signed([x], [scores]), samples((1, 16))
    made = quantize(content, "fp16", None)
    want, got = outputs(content, inputs), outputs(made, inputs)
    assert fidelity(want, got).sqnr_db > 50
    assert sum(tensor.type == schema.TensorType.FLOAT16 for tensor in flatbuffer.read(made).subgraphs[0].tensors) == 1
