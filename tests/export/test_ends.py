"""A file's inputs and outputs: their names, and images taken as pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeprune.errors import ExportError
from edgeprune.export import ExportOptions, export, read_metadata
from edgeprune.export.evaluate import score_file
from edgeprune.export.names import input_names, output_names
from edgeprune.export.pixels import Normalisation
from edgeprune.task import Task
from edgeprune.tflite import schema as flatbuffer
from edgeprune.tflite.graph import read_graph
from edgeprune.tflite.interpreter import open_tflite

COLOURS = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.Linear(8, 4)

    def forward(self, image: Tensor, state: Tensor) -> dict[str, Tensor]:
        features = self.body(image).relu().mean((2, 3))
        return {"scores": self.head(features), "state": 0.5 * state + features}


def pixels(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (1, 3, 16, 16), generator=generator, dtype=torch.uint8) for _ in range(count)]


def normalised(image: Tensor) -> Tensor:
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (COLOURS.mean, COLOURS.std))
    return (image.float() / 255 - mean) / std


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return Detector().eval()


@pytest.fixture(scope="module")
def files(model, tmp_path_factory):
    samples = [(normalised(image), torch.rand(1, 8)) for image in pixels(16)]
    options = ExportOptions(channels_last=True, pixels=COLOURS)
    return export(model, samples[0], ["tflite", "tflite-int8"], tmp_path_factory.mktemp("files"), calibration=samples, options=options)


@pytest.mark.parametrize("name", ["tflite", "tflite-int8"])
def test_a_camera_s_pixels_are_taken_as_they_are(model, files, name):
    graph = read_graph(files[name].read_bytes(), name)
    assert [(tensor.name, tensor.dtype, tensor.shape) for tensor in graph.inputs] == [
        ("image", "uint8", (1, 16, 16, 3)),
        ("state", "float32", (1, 8)),
    ]
    interpreter, (image, state) = open_tflite(files[name].read_bytes()), (pixels(1)[0], torch.rand(1, 8))
    for detail, value in zip(interpreter.get_input_details(), (image.movedim(1, -1), state), strict=True):
        interpreter.set_tensor(detail["index"], np.ascontiguousarray(value.numpy()))
    interpreter.invoke()
    with torch.no_grad():
        want = model(normalised(image), state)
    for detail, value in zip(interpreter.get_output_details(), want.values(), strict=True):
        error = np.abs(interpreter.get_tensor(detail["index"]) - value.numpy()).max()
        assert error < (1e-4 if name == "tflite" else 0.05) * float(value.abs().max())


def test_int8_moves_pixels_by_one_operator(files):
    kinds = [name for name, *_ in flatbuffer.operators(flatbuffer.read(files["tflite-int8"].read_bytes()))]
    assert "CAST" not in kinds
    (image, _) = read_graph(files["tflite-int8"].read_bytes(), "int8").inputs
    assert (image.scales, image.zero_points) == ((1.0,), (0,))


def test_names_are_those_of_the_model_s_code(files):
    for path in files.values():
        (signature,) = flatbuffer.read(path.read_bytes()).signatureDefs
        assert {flatbuffer.text(entry.name) for entry in signature.inputs} == {"image", "state"}
        assert {flatbuffer.text(entry.name) for entry in signature.outputs} == {"scores", "state"}


def test_a_file_that_takes_pixels_is_scored_on_normalised_batches(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()
    images = torch.cat([normalised(image) for image in pixels(16)])
    with torch.no_grad():
        task = Task(net, (images[:1],), validation=[(images, net(images).argmax(1))])
    path = export(net, (images[:1],), ["tflite"], tmp_path, options=ExportOptions(pixels=COLOURS))["tflite"]
    assert read_metadata(path)["pixels"] == COLOURS.to_json() | {"mean": list(COLOURS.mean), "std": list(COLOURS.std)}
    assert score_file(path, task) == 100.0


@pytest.mark.parametrize(
    ("inputs", "calibration", "said"),
    [
        ((torch.zeros(1, 8),), None, "is for images"),
        ((torch.zeros(1, 1, 4, 4),), None, "have 3 channels, and the image has 1"),
        ((torch.zeros(1, 3, 4, 4),), [(100 * torch.ones(1, 3, 4, 4),)] * 8, "are not pixels with the mean"),
    ],
)
def test_what_cannot_be_pixels_is_refused(inputs, calibration, said, tmp_path):
    with pytest.raises(ExportError, match=said):
        export(nn.Identity(), inputs, ["tflite"], tmp_path, calibration=calibration, options=ExportOptions(pixels=COLOURS))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"mean": 0.5, "std": [0.25]}, Normalisation((0.5,), (0.25,))),
        ({"mean": (0.1, 0.2, 0.3), "std": (1, 1, 1), "scale": 1}, Normalisation((0.1, 0.2, 0.3), (1.0, 1.0, 1.0), 1.0)),
        ({"input": "samples at 16 kHz"}, None),
    ],
)
def test_a_task_s_preprocessing_gives_the_normalisation(told, expected):
    assert Normalisation.of(told) == expected


def test_names_of_nested_inputs_and_outputs():
    class Nested(nn.Module):
        def forward(self, batch: dict[str, Tensor], size: Tensor) -> Tensor:
            return batch["a"]

    one = torch.zeros(1)
    assert input_names(Nested(), ({"a": one, "b": one}, one)) == ("a", "b", "size")
    assert input_names(nn.Sequential(), (one,)) == ("input",)
    assert output_names({"boxes": [one, one], "scores": one}) == ("boxes_0", "boxes_1", "scores")
    assert output_names((one, one)) == ()
    assert output_names(one) == ()
