"""Quantized TFLite files: what is in them, how near they come, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgeprune.errors import ExportError, ParityError
from edgeprune.export import ExportOptions, calibration_of, export, formats, read_metadata
from edgeprune.export.layers import layer_errors
from edgeprune.export.parity import fidelity, sqnr_db
from edgeprune.export.quantize import quantize
from edgeprune.task import Task
from edgeprune.tflite import schema as flatbuffer

QUANTIZED = ("tflite-fp16", "tflite-dynamic", "tflite-int8")


class Small(nn.Module):
    """A depthwise-separable CNN that knows the mean colours of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.ReLU6(), nn.Conv2d(16, 24, 1)
        )
        self.head = nn.Linear(24, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.features(x)).mean((2, 3)))


def images(count: int, seed: int = 0) -> list[tuple[torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(1, 3, 8, 8, generator=generator),) for _ in range(count)]


def arrays(samples: list[tuple[torch.Tensor]]) -> list[tuple[np.ndarray, ...]]:
    return [tuple(value.numpy() for value in sample) for sample in samples]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return Small().eval()


@pytest.fixture(scope="module")
def files(model, tmp_path_factory) -> dict[str, Path]:
    """The model in every TFLite format."""
    return export(model, (torch.zeros(1, 3, 8, 8),), ("tflite", *QUANTIZED), tmp_path_factory.mktemp("files"), calibration=images(32))


@pytest.fixture(scope="module")
def float_file(files) -> bytes:
    return files["tflite"].read_bytes()


def types(content: bytes) -> tuple[int, int]:
    graph = flatbuffer.read(content).subgraphs[0]
    return graph.tensors[graph.inputs[0]].type, graph.tensors[graph.outputs[0]].type


FLOAT32, INT8 = 0, 9  # TensorType of the schema


def test_every_kind_computes_what_the_model_does_on_inputs_it_was_not_calibrated_on(model, files):
    unseen = images(16, seed=1)
    with torch.no_grad():
        expected = [[model(*sample)] for sample in unseen]
    least = {"tflite": 100.0, "tflite-fp16": 60.0, "tflite-dynamic": 30.0, "tflite-int8": 25.0}
    for name, path in files.items():
        loaded = formats.find(name).load(path)
        assert fidelity(expected, [loaded(sample) for sample in unseen]).sqnr_db > least[name], name


def test_quantized_files_lie_beside_the_float_one_and_are_smaller(files):
    assert [path.name for path in files.values()] == ["model.tflite", "model.fp16.tflite", "model.dynamic.tflite", "model.int8.tflite"]
    assert all(formats.of_path(path).name == name for name, path in files.items())
    assert all(formats.find(name).engine == "tflite" for name in files)
    weights = {name: len(weight_of(path.read_bytes(), "CONV_2D")[1]) for name, path in files.items()}
    assert weights["tflite"] == 2 * weights["tflite-fp16"] == 4 * weights["tflite-dynamic"] == 4 * weights["tflite-int8"]


def weight_of(content: bytes, kind: str) -> tuple[object, np.ndarray]:
    """The tensor and the stored bytes of the weights of the last operator of ``kind``; float16 ones stand behind a DEQUANTIZE."""
    model = flatbuffer.read(content)
    makers = {int(operator.outputs[0]): operator for _, _, operator, _ in flatbuffer.operators(model)}
    *_, (_, _, operator, graph) = (item for item in flatbuffer.operators(model) if item[0] == kind)
    index = int(operator.inputs[1])
    index = int(makers[index].inputs[0]) if index in makers else index
    return graph.tensors[index], model.buffers[graph.tensors[index].buffer].data


def convolutions(content: bytes) -> list[tuple[object, object]]:
    """Every convolution with its graph, in order of the channels it makes: 8, 4, 3."""
    found = [(graph, operator) for kind, _, operator, graph in flatbuffer.operators(flatbuffer.read(content)) if kind == "CONV_2D"]
    return sorted(found, key=lambda item: -item[0].tensors[int(item[1].inputs[1])].shape[0])


@pytest.mark.parametrize("kind", ["CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"])
def test_int8_weights_have_a_scale_for_each_channel(files, kind):
    tensor, data = weight_of(files["tflite-int8"].read_bytes(), kind)
    channels = {"CONV_2D": 24, "DEPTHWISE_CONV_2D": 16, "FULLY_CONNECTED": 5}[kind]
    assert len(tensor.quantization.scale) == channels
    assert len(data) == np.prod(tensor.shape), "one byte a weight"


def test_dynamic_fully_connected_weights_have_one_scale(files):
    content = files["tflite-dynamic"].read_bytes()
    assert len(weight_of(content, "FULLY_CONNECTED")[0].quantization.scale) == 1
    assert len(weight_of(content, "CONV_2D")[0].quantization.scale) == 24
    assert weight_of(content, "DEPTHWISE_CONV_2D")[0].type == FLOAT32, "no kernel that quantizes as it runs is fast"


def test_inputs_and_outputs_stay_float_unless_integers_are_wanted(float_file):
    samples = arrays(images(8))
    assert types(quantize(float_file, "int8", samples)) == (FLOAT32, FLOAT32)
    assert types(quantize(float_file, "int8", samples, integer_io=True)) == (INT8, INT8)
    with pytest.raises(ExportError, match="keeps its inputs and outputs float"):
        quantize(float_file, "fp16", None, integer_io=True)


def test_ranges_are_the_least_and_the_largest_values_of_all_samples(float_file):
    samples = arrays(images(16))
    samples[5][0][0, 0, 0, 0], samples[11][0][0, 2, 7, 7] = -37.0, 91.0
    graph = flatbuffer.read(quantize(float_file, "int8", samples, integer_io=True)).subgraphs[0]
    scale, zero = (float(values[0]) for values in (lambda q: (q.scale, q.zeroPoint))(graph.tensors[graph.inputs[0]].quantization))
    assert (-128 - zero) * scale == pytest.approx(-37.0, abs=scale)
    assert (127 - zero) * scale == pytest.approx(91.0, abs=scale)


def test_the_same_calibration_gives_the_same_bytes(float_file):
    for kind in ("fp16", "dynamic", "int8"):
        first, second = (quantize(float_file, kind, arrays(images(8)) if kind == "int8" else None) for _ in range(2))
        assert first == second, kind


def test_constant_data_are_aligned_and_inside_the_tables(files):
    """Kernels load 16 bytes at a time, and runtimes before 2.13 do not know data that stand behind the tables."""
    for name, path in files.items():
        content = path.read_bytes()
        for buffer in flatbuffer.read(content).buffers:
            assert not buffer.offset
            if buffer.data is not None and len(buffer.data) > 64:
                assert content.index(buffer.data.tobytes()) % 16 == 0, name


def test_what_a_regular_expression_names_stays_float(files, float_file):
    content = quantize(float_file, "int8", arrays(images(8)), keep_float=[r"^features\.2"])
    assert weight_of(content, "DEPTHWISE_CONV_2D")[0].type == FLOAT32
    assert weight_of(content, "CONV_2D")[0].type == INT8


class Detector(nn.Module):
    """Boxes and scores under names of the user's own, the boxes moved after they are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, padding=1)
        self.regress, self.classify = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 3, 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        shared = torch.relu(self.body(x))
        return {"boxes": self.regress(shared).flatten(2).transpose(1, 2), "scores": self.classify(shared).flatten(2)}


@pytest.mark.parametrize(
    ("named", "options"),
    [("^boxes$", {}), ("^pred_boxes$", {"outputs": ("pred_boxes", "pred_scores")}), ("regress", {})],
)
def test_the_name_of_an_output_keeps_what_computes_it_float(named, options, tmp_path):
    torch.manual_seed(0)
    path = export(
        Detector(),
        (torch.zeros(1, 3, 8, 8),),
        ["tflite-int8"],
        tmp_path,
        calibration=images(8),
        options=ExportOptions(keep_float=[named], **options),
    )["tflite-int8"]
    content = path.read_bytes()
    assert [graph.tensors[int(operator.inputs[1])].type for graph, operator in convolutions(content)] == [INT8, FLOAT32, INT8]


def test_an_output_without_a_name_of_its_own_has_that_of_the_file(model, tmp_path):
    options = ExportOptions(keep_float=["^output_0$"])
    path = export(model, (torch.zeros(1, 3, 8, 8),), ["tflite-int8"], tmp_path, calibration=images(8), options=options)["tflite-int8"]
    assert weight_of(path.read_bytes(), "FULLY_CONNECTED")[0].type == FLOAT32
    options = ExportOptions(keep_float=["nowhere"])
    with pytest.raises(ExportError, match=r"'nowhere' matches the output of no operator\nThere are output_0, .*features"):
        export(model, (torch.zeros(1, 3, 8, 8),), ["tflite-int8"], tmp_path / "other", calibration=images(8), options=options)


def test_a_regular_expression_that_is_none_or_names_nothing_is_refused(float_file):
    with pytest.raises(ExportError, match=r"'\['.* not a regular expression"):
        ExportOptions(keep_float=["["])
    with pytest.raises(ExportError, match=r"'nowhere' matches the output of no operator\nThere are .*features"):
        quantize(float_file, "int8", arrays(images(8)), keep_float=["features", "nowhere"])


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        (None, "0 samples, and needs at least 8"),
        (arrays(images(7)), "7 samples, and needs at least 8"),
        ([*arrays(images(8)), (np.full((1, 3, 8, 8), np.nan, np.float32),)], "sample 8: input 0 holds NaN or infinity"),
        ([(np.zeros((1, 3, 9, 8), np.float32),)] * 8, r"sample 0: input 0 has shape \(1, 3, 9, 8\), and the model takes \(1, 3, 8, 8\)"),
        ([(np.zeros((1, 3, 8, 8), np.float32),) * 2] * 8, "sample 0 has 2 inputs, and the model 1"),
    ],
)
def test_a_calibration_that_does_not_do_is_refused(model, float_file, samples, said, tmp_path):
    with pytest.raises(ExportError, match=said):
        quantize(float_file, "int8", samples)
    with pytest.raises(ExportError, match="needs calibration" if samples is None else said):
        export(model, (torch.zeros(1, 3, 8, 8),), ["tflite-int8"], tmp_path, calibration=samples)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_kind_and_a_file_that_is_not_a_model(float_file):
    with pytest.raises(ExportError, match=r"'int4'\n.*Known kinds: fp16, dynamic, int8"):
        quantize(float_file, "int4", None)  # type: ignore[arg-type]
    with pytest.raises(ExportError, match="not a TFLite model"):
        quantize(b"something else", "fp16", None)


class Lopsided(nn.Module):
    """One channel a thousand times the others, which alone matter: eight bits for the whole tensor leave nothing of them."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Linear(8, 8), nn.Linear(8, 8)
        with torch.no_grad():
            self.wide.weight[0] *= 3000.0
            self.narrow.weight[:, 0] = 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.narrow(self.wide(x)))[:, None]  # not class scores


def test_a_collapse_names_the_layer_where_it_happens_and_leaves_no_file(tmp_path):
    torch.manual_seed(0)
    samples = [(torch.randn(1, 8),) for _ in range(16)]
    with pytest.raises(ParityError, match=r"tflite-int8: quantization changed the model: .*FULLY_CONNECTED wide \(") as caught:
        export(Lopsided(), (torch.zeros(1, 8),), ["tflite-int8"], tmp_path, calibration=samples)
    assert "keep_float" in str(caught.value.remedy)
    assert list(tmp_path.iterdir()) == []
    torch.manual_seed(0)
    options = ExportOptions(keep_float=["^wide"])
    assert export(Lopsided(), (torch.zeros(1, 8),), ["tflite-int8"], tmp_path, calibration=samples, options=options)[
        "tflite-int8"
    ].is_file()


@pytest.mark.parametrize("pool", [nn.MaxPool3d(2), nn.MaxPool3d(3, 1, 1), nn.AdaptiveMaxPool3d(2)])
def test_operators_inside_others_stay_float(pool, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), pool, nn.Flatten(), nn.LazyLinear(3)).eval()
    inputs = (torch.randn(1, 1, 4, 4, 4),)
    model(*inputs)
    samples = [(torch.randn(1, 1, 4, 4, 4),) for _ in range(16)]
    path = export(model, inputs, ["tflite-int8"], tmp_path, calibration=samples)["tflite-int8"]
    found = [item for item in flatbuffer.operators(flatbuffer.read(path.read_bytes())) if item[0] == "FULLY_CONNECTED"]
    assert [graph.tensors[int(operator.inputs[1])].type for _, _, operator, graph in found] == [INT8]


def test_errors_of_layers_are_in_decibels_and_in_order(float_file, files):
    errors = layer_errors(float_file, files["tflite-int8"].read_bytes(), images(8))
    assert [item.name for item in errors if item.operator in ("CONV_2D", "DEPTHWISE_CONV_2D")] == ["features.0", "features.2", "features.4"]
    assert all(15 < item.sqnr_db < 80 for item in errors)
    assert sqnr_db(torch.full((4,), 10.0), torch.full((4,), 11.0)) == pytest.approx(20.0)


def test_a_model_of_tokens(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(50, 16), nn.Flatten(), nn.Linear(96, 4))
    samples = [(torch.randint(0, 50, (1, 6)),) for _ in range(16)]
    paths = export(model, (torch.zeros(1, 6, dtype=torch.int64),), QUANTIZED, tmp_path, calibration=samples)
    with torch.no_grad():
        expected = [[model(*sample)] for sample in samples]
    for name, path in paths.items():
        loaded = formats.find(name).load(path)
        assert fidelity(expected, [loaded(sample) for sample in samples]).sqnr_db > 25, name
    for name in ("tflite-dynamic", "tflite-int8"):
        table, data = weight_of(paths[name].read_bytes(), "EMBEDDING_LOOKUP")
        assert len(data) == 50 * 16, "one byte a weight"
        assert len(table.quantization.scale) == 1, "runtimes up to 2.14 take the first for all"


def test_channels_last_names_and_metadata(model, tmp_path):
    options = ExportOptions(
        channels_last=True, integer_io=True, signature="classify", inputs=["image"], outputs=["scores"], metadata={"labels": list("abcde")}
    )
    paths = export(model, (torch.zeros(1, 3, 8, 8),), ["tflite", "tflite-int8"], tmp_path, calibration=images(16), options=options)
    for name, path in paths.items():
        graph = flatbuffer.read(path.read_bytes()).subgraphs[0]
        (signature,) = flatbuffer.read(path.read_bytes()).signatureDefs
        assert list(graph.tensors[graph.inputs[0]].shape) == [1, 8, 8, 3]
        assert [flatbuffer.text(value) for value in (signature.signatureKey, signature.inputs[0].name, signature.outputs[0].name)] == [
            "classify",
            "image",
            "scores",
        ]
        assert all(kind != "TRANSPOSE" for kind, *_ in flatbuffer.operators(flatbuffer.read(path.read_bytes()))) or name == "tflite"
        assert read_metadata(path)["labels"] == list("abcde")
        assert read_metadata(path)["format"] == name
        (sample,) = images(1, seed=3)
        with torch.no_grad():
            assert sqnr_db(model(*sample), formats.find(name).run(path, sample)[0]) > 20, "inputs and outputs are still the PyTorch model's"


def test_names_that_do_not_fit(model, tmp_path):
    with pytest.raises(ExportError, match=r"2 names .* for 1 inputs"):
        export(model, (torch.zeros(1, 3, 8, 8),), ["tflite"], tmp_path, options=ExportOptions(inputs=["a", "b"]))
    with pytest.raises(ExportError, match="not all different"):
        ExportOptions(outputs=["a", "a"])
    with pytest.raises(ExportError, match="cannot be written as JSON"):
        ExportOptions(metadata={"labels": object()})


def test_a_calibration_is_of_the_task_s_training_data(model):
    batches = [(torch.full((4, 3, 8, 8), float(number)), torch.zeros(4)) for number in range(3)]
    task = Task(model, (torch.zeros(1, 3, 8, 8),), train=batches, validation=[(torch.full((4, 3, 8, 8), 9.0), torch.zeros(4))])
    assert [float(value.mean()) for (value,) in calibration_of(task, 6)] == [0.0, 0.0, 1.0, 1.0, 2.0, 2.0], "spread over the batches"
    samples = calibration_of(task, 100)
    assert [float(value.mean()) for (value,) in samples] == [0.0] * 4 + [1.0] * 4 + [2.0] * 4, "all there are"
    assert samples[0][0].shape == (1, 3, 8, 8)
    with pytest.raises(ExportError, match="no data to calibrate on"):
        calibration_of(Task(model, (torch.zeros(1, 3, 8, 8),)))


@pytest.mark.parametrize("batch", [torch.zeros(4, 3, 8, 8), (torch.zeros(()), torch.zeros(4)), ([], torch.zeros(4)), None])
def test_batches_that_cannot_calibrate_are_refused(model, batch):
    with pytest.raises(ExportError, match=r"the data of model cannot calibrate: (.|\n)*\nBatches are \(inputs, targets\)"):
        calibration_of(Task(model, (torch.zeros(1, 3, 8, 8),), train=[batch]))
