"""Weights stored without their zeros compute the same; the check says what XNNPACK will do with a file, and what is in the way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter
from sparse_models import SIZE, Net, body, stored, variants
from torch import nn

from edgeprune.errors import ExportError, InputError
from edgeprune.export import export, formats
from edgeprune.export.sparse.check import sparse_check
from edgeprune.export.sparse.format import sparse_tflite
from edgeprune.importance.unstructured import apply_masks, quantile_masks, sparse_parameters
from edgeprune.tflite import schema as flatbuffer

DENSE = variants()
STORED = {name: stored(content) for name, content in DENSE.items()}
ARRANGED = {name: sparse_tflite(content) for name, content in DENSE.items()}


def outputs(content: bytes) -> np.ndarray:
    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    detail = interpreter.get_input_details()[0]
    interpreter.set_tensor(detail["index"], np.random.default_rng(0).standard_normal(detail["shape"]).astype(np.float32))
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


@pytest.mark.parametrize("name", DENSE)
def test_the_sparse_file_computes_the_same_and_is_smaller(name: str) -> None:
    expected = outputs(DENSE[name])
    for content in (STORED[name], ARRANGED[name]):
        np.testing.assert_allclose(outputs(content), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
        assert len(content) < len(DENSE[name])
    assert sparse_tflite(DENSE[name]) == ARRANGED[name]


def test_what_is_stored_is_exactly_what_is_not_zero() -> None:
    model = flatbuffer.read(STORED["whole"])
    tensors = [tensor for tensor in model.subgraphs[0].tensors if tensor.sparsity is not None]
    assert len(tensors) == 9
    for tensor in tensors:
        values = np.frombuffer(bytes(model.buffers[tensor.buffer].data), np.float32)
        assert np.count_nonzero(values) == len(values) == pytest.approx(0.15 * np.prod(tensor.shape), abs=1)
        last = tensor.sparsity.dimMetadata[-1]
        assert len(last.arraySegments.values) == tensor.shape[0] + 1
        assert last.arraySegments.values[-1] == len(last.arrayIndices.values) == len(values)


@pytest.mark.parametrize("rows", [(3, 1), (2, 300), (2, 70000)])
def test_places_of_every_width_and_empty_rows(rows: tuple[int, int]) -> None:
    count, width = rows
    weights = np.zeros((count, width), np.float32)
    weights[-1, -1] = 2.0
    net = Net()
    net.input = net.top = net.tensor((1, width))
    net._new("FULLY_CONNECTED", (1, count), [net.top, net._constant(weights), -1], "FullyConnectedOptions", _linear_options())
    dense = net.done()
    np.testing.assert_array_equal(outputs(sparse_tflite(dense)), outputs(dense))


def _linear_options() -> object:
    from ai_edge_litert import schema_py_generated as schema

    return schema.FullyConnectedOptionsT()


@pytest.mark.parametrize(
    ("name", "operation", "why"),
    [
        ("fully-connected after the mean", "FULLY_CONNECTED", "its 256000 weights count with those of the 1x1 convolutions"),
        ("stride-1 stem", "CONV_2D", "the first convolution has stride 1x1, not 2"),
        ("no padding of the stem", "CONV_2D", "the first convolution has a padding of 0, not 1 on each side"),
        ("no padding of a depthwise convolution", "DEPTHWISE_CONV_2D", "it is depthwise with a padding of 0, not 1 on each side"),
        ("too dense", "CONV_2D", "60 % of the 44800 weights of the part up to it are zero, and more than two thirds must be"),
        ("max pooling", "MAX_POOL_2D", "XNNPACK has no sparse form of it"),
        ("average pooling", "CONV_2D", "no mean over height and width follows the last 1x1 convolution"),
        ("no mean", "CONV_2D", "no mean over height and width follows the last 1x1 convolution"),
    ],
)
def test_the_check_names_what_is_in_the_way(name: str, operation: str, why: str) -> None:
    report = sparse_check(STORED[name])
    assert not report.taken
    assert report.sparse == 0
    assert report.pointwise in (9, 10)
    found = [finding for finding in report.findings if finding.operation == operation and finding.why.startswith(why)]
    assert len(found) == 1
    assert found[0].remedy
    assert not found[0].wrong


@pytest.mark.parametrize(
    "name", ["whole", "constant factor", "fully-connected after the mean", "1x1 convolution after the mean", "average pooling"]
)
def test_arranging_makes_it_run_sparse(name: str) -> None:
    report = sparse_check(ARRANGED[name])
    assert report.taken
    assert report.sparse == 9
    assert report.zeros == pytest.approx(0.85, abs=0.001)


@pytest.mark.parametrize("name", ["whole", "fully-connected that reshapes"])
def test_these_need_no_arranging(name: str) -> None:
    assert sparse_check(STORED[name]).taken


@pytest.mark.parametrize("name", ["max pooling", "1x1 convolution after the mean"])
def test_files_that_arm_devices_would_misread_are_told_apart_and_never_exported(name: str) -> None:
    before, after = sparse_check(STORED[name]), sparse_check(ARRANGED[name])
    assert before.wrong
    assert not before.taken
    assert not after.wrong


@pytest.mark.parametrize("name", ["stride-1 stem", "no padding of the stem", "too dense", "max pooling", "no mean"])
def test_what_cannot_be_arranged_is_still_reported(name: str) -> None:
    report = sparse_check(ARRANGED[name])
    assert not report.taken
    assert report.findings


def test_dense_and_quantized_files_are_reported() -> None:
    assert [finding.why for finding in sparse_check(DENSE["whole"]).findings] == ["its weights are stored with their zeros"]
    from edgeprune.export.quantize import quantize

    image = [(np.random.default_rng(index).standard_normal((1, SIZE, SIZE, 3)).astype(np.float32),) for index in range(8)]
    quantized = quantize(_with_signature(DENSE["whole"]), "int8", image)
    assert "its values or weights are not floating-point numbers" in {finding.why for finding in sparse_check(quantized).findings}


def _with_signature(content: bytes) -> bytes:
    from ai_edge_litert import schema_py_generated as schema

    model = flatbuffer.read(content)
    signature, maps = schema.SignatureDefT(), []
    graph = model.subgraphs[0]
    for name, tensor in (("image", graph.inputs[0]), ("scores", graph.outputs[0])):
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = name, int(tensor)
        maps.append(entry)
    signature.inputs, signature.outputs, signature.signatureKey = maps[:1], maps[1:], "serving_default"
    model.signatureDefs = [signature]
    return flatbuffer.pack(model)


def test_a_value_read_from_outside_breaks_the_part() -> None:
    net = body(Net())
    inner = net.top
    net.mean(keep=True).flatten().linear()
    report = sparse_check(stored(net.build([net.input], [net.top, inner])))
    assert not report.taken
    assert "an output of the model lies inside the sparse part" in {finding.why for finding in report.findings}


def test_nothing_to_store_and_no_model_are_one_clear_error(tmp_path) -> None:
    with pytest.raises(ExportError, match=r"50 % of its weights zero; the most has 30 %") as caught:
        sparse_tflite(body(Net(0.3)).mean().linear().done())
    assert "edgeprune sparsify" in str(caught.value.remedy)
    with pytest.raises(ExportError, match="not a TFLite model"):
        sparse_check(b"nothing of the kind")
    with pytest.raises(InputError, match=r"absent\.tflite cannot be read"):
        sparse_check(tmp_path / "absent.tflite")


class Small(nn.Module):
    """A MobileNetV2-style network with squeeze-and-excite and hard swish."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Hardswish())
        self.widen = nn.Sequential(nn.Conv2d(8, 32, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6())
        self.filter = nn.Sequential(nn.Conv2d(32, 32, 5, 2, 2, groups=32), nn.ReLU6())
        self.squeeze, self.excite = nn.Conv2d(32, 8, 1), nn.Conv2d(8, 32, 1)
        self.narrow = nn.Conv2d(32, 16, 1)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.filter(self.widen(self.stem(x)))
        x = x * torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        return self.head(self.narrow(x))


def test_a_pytorch_model_is_exported_sparse(tmp_path) -> None:
    torch.manual_seed(0)
    model, inputs = Small().eval(), (torch.zeros(1, 3, 32, 32),)
    parameters = sparse_parameters(model, linear=False)
    apply_masks(parameters, quantile_masks(parameters, 0.8, "layer"))
    paths = export(model, inputs, ["tflite", "tflite-sparse"], tmp_path, "small")
    assert paths["tflite-sparse"].name == "small.sparse.tflite"
    report = sparse_check(paths["tflite-sparse"])
    assert (report.taken, report.sparse, report.pointwise) == (True, 4, 4)
    assert report.zeros == pytest.approx(0.8, abs=0.01)
    assert not sparse_check(paths["tflite"]).taken
    assert formats.find("tflite-sparse").engine == "tflite"
    with pytest.raises(ExportError, match="no 1x1 convolution or linear layer has 50 %"):
        export(Small().eval(), inputs, ["tflite-sparse"], tmp_path, "dense")
    assert not (tmp_path / "dense.sparse.tflite").exists()
