"""Formats of optional packages, types that a format does not hold, operations that it lacks."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from edgeprune.errors import ExportError
from edgeprune.export import ExportOptions, export, formats


class Net(nn.Module):
    """Convolution, batch norm, an integer input, two outputs in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.table = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Embedding(5, 8)
        self.norm.running_mean.uniform_(-1, 1)

    def forward(self, x: torch.Tensor, index: torch.Tensor) -> dict[str, torch.Tensor]:
        features = torch.relu(self.norm(self.conv(x))).mean((2, 3))
        return {"sum": features + self.table(index), "best": features.argmax(1)}


INPUTS = (torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([3]))


@pytest.mark.parametrize(("name", "package"), [("onnx", "onnxruntime"), ("executorch", "executorch")])
def test_a_file_computes_what_the_model_does(name, package, tmp_path):
    pytest.importorskip(package)
    torch.manual_seed(0)
    model = Net().eval()
    path = export(model, INPUTS, [name], tmp_path)[name]
    (unseen,) = (torch.randn(1, 3, 8, 8),)
    expected = model(unseen, INPUTS[1])
    produced = formats.find(name).run(path, (unseen, INPUTS[1]))
    torch.testing.assert_close(produced[0], expected["sum"].detach(), rtol=1e-4, atol=1e-4)
    assert torch.equal(produced[1], expected["best"])
    assert b"/tmp/" not in path.read_bytes()
    assert str(tmp_path).encode() not in path.read_bytes()


def test_onnx_inputs_and_outputs_have_names(tmp_path):
    onnx = pytest.importorskip("onnx")
    options = ExportOptions(inputs=["image", "index"], outputs=["sum", "best"])
    graph = onnx.load_model(export(Net(), INPUTS, ["onnx"], tmp_path, options=options)["onnx"]).graph
    assert [value.name for value in graph.input] == ["image", "index"]
    assert [value.name for value in graph.output] == ["sum", "best"]


@pytest.mark.parametrize(("name", "package"), [("onnx", "onnx"), ("executorch", "executorch.exir")])
def test_a_missing_package_says_what_to_install(name, package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        ExportError, match=rf"the format {name} needs the package {name}.*\nInstall it: pip install \"edgeprune\[{name}\]\""
    ):
        export(nn.Linear(4, 4), (torch.ones(1, 4),), [name], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_operation_onnx_lacks_is_named(tmp_path):
    pytest.importorskip("onnxruntime")

    class Lacking(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.special.i1e(x)

    with pytest.raises(ExportError, match=r"onnx: .*i1e"):
        export(Lacking(), (torch.ones(1, 4),), ["onnx"], tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["bfloat16", "float64", "complex64"])
def test_a_type_that_tflite_does_not_hold_is_named(kind, tmp_path):
    dtype = getattr(torch, kind)
    layer = nn.Linear(4, 4)
    layer.weight, layer.bias = nn.Parameter(layer.weight.to(dtype)), nn.Parameter(layer.bias.to(dtype))

    class Inside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.view_as_real(self.layer(x.to(dtype))) if dtype.is_complex else self.layer(x.to(dtype)).float()

    with pytest.raises(ExportError, match=rf"tflite: layer.weight is {kind}, a type that the format does not hold\nExport model.float"):
        export(Inside(), (torch.ones(1, 4),), ["tflite"], tmp_path)
    assert list(tmp_path.iterdir()) == []
