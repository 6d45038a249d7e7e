"""Every format writes a file that computes what the model computes, and refuses what it cannot hold, by name."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from edgeprune.errors import CaptureError, ExportError, ParityError
from edgeprune.export import export, formats, start_export
from edgeprune.tflite import schema as flatbuffer

ALL = ("tflite", "torchscript", "pt2")


class Function(nn.Module):
    """``function`` of a linear layer's output and the other inputs."""

    def __init__(self, function: Callable[..., object]) -> None:
        super().__init__()
        self.function = function
        self.linear = nn.Linear(8, 8)

    def forward(self, first: torch.Tensor, *rest: torch.Tensor) -> object:
        return self.function(self.linear(first), *rest)


class Residual(nn.Module):
    """A residual CNN with batch norm, dropout and an option-A shortcut; its statistics are not those of a fresh layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.branch = nn.Sequential(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 1, groups=4))
        self.norm = nn.BatchNorm2d(16)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(16, 5))
        for layer in self.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.uniform_(-1, 1)
                layer.running_var.uniform_(0.1, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        shortcut = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
        return self.head(torch.relu(self.norm(self.branch(x)) + shortcut))


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    torch.manual_seed(0)


def test_a_residual_cnn_in_every_format(tmp_path):
    model, inputs = Residual().train(), (torch.randn(1, 3, 8, 8),)
    before = copy.deepcopy(model.state_dict())
    paths = export(model, inputs, ALL, tmp_path, "cnn")
    assert paths == {"tflite": tmp_path / "cnn.tflite", "torchscript": tmp_path / "cnn.pt", "pt2": tmp_path / "cnn.pt2"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cnn.pt", "cnn.pt2", "cnn.tflite"], "nothing else is left in the folder"
    assert model.training
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items()), "the caller's model is unchanged"
    assert all(parameter.requires_grad for parameter in model.parameters())

    probe = torch.randn(1, 3, 8, 8)
    expected = copy.deepcopy(model).eval()(probe)
    for name, path in paths.items():
        produced = formats.find(name).run(path, (probe,))
        assert len(produced) == 1
        torch.testing.assert_close(produced[0], expected.detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("function", "inputs"),
    [
        (lambda x, y: {"sum": x + y, "both": (x * y, x.argmax(1))}, (torch.randn(1, 8), torch.randn(1, 8))),
        (lambda x, y: (y + 1, x, x), (torch.randn(1, 8), torch.randn(1, 3))),
        (lambda x, index: x + nn.functional.one_hot(index, 8), (torch.randn(1, 8), torch.tensor([5]))),
    ],
    ids=["nested outputs", "swapped and repeated outputs", "an integer input"],
)
def test_inputs_and_outputs_keep_their_order(function, inputs, tmp_path):
    model = Function(function)
    paths = export(model, inputs, ALL, tmp_path)
    expected = torch.utils._pytree.tree_leaves(model(*inputs))
    for name, path in paths.items():
        produced = formats.find(name).run(path, inputs)
        for got, want in zip(produced, expected, strict=True):
            torch.testing.assert_close(got.to(want.dtype), want.detach(), rtol=1e-4, atol=1e-4)


def test_a_graph_module_of_aten_operations(tmp_path):
    inputs = (torch.randn(1, 3, 8, 8),)
    module = torch.export.export(Residual().eval(), inputs).module()
    for name, path in export(module, inputs, ALL, tmp_path).items():
        torch.testing.assert_close(formats.find(name).run(path, inputs)[0], module(*inputs).detach(), rtol=1e-4, atol=1e-4)


def test_the_same_model_gives_the_same_bytes(tmp_path, monkeypatch):
    model, inputs = Residual(), (torch.randn(1, 3, 8, 8),)
    first = export(model, inputs, ALL, tmp_path / "a", "one")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    second = export(model, inputs, ALL, tmp_path / "b", "two")
    for name in ALL:
        assert first[name].read_bytes() == second[name].read_bytes(), name
        assert str(Path(__file__).parents[1]).encode() not in first[name].read_bytes(), "a shipped file tells nothing about this machine"


def test_denormal_weights_are_flushed(tmp_path):
    model = nn.Linear(4, 4)
    with torch.no_grad():
        model.weight.fill_(1e-40)
    path = export(model, (torch.ones(1, 4),), ["pt2"], tmp_path)["pt2"]
    assert torch.count_nonzero(torch.export.load(path).state_dict["weight"]) == 0
    assert torch.count_nonzero(model.weight) == 16, "the caller's weights keep their values"


def test_an_unknown_format_lists_the_known_ones(tmp_path):
    with pytest.raises(
        ExportError, match=r"unknown export format .onyx.\nDid you mean onnx\? Known formats: .*pt2.* tflite, .*tflite-int8.*torchscript"
    ):
        export(nn.Linear(4, 4), (torch.ones(1, 4),), ["tflite", "onyx"], tmp_path)
    with pytest.raises(ExportError, match="no export format"):
        export(nn.Linear(4, 4), (torch.ones(1, 4),), [], tmp_path)


def test_a_name_cannot_be_registered_twice():
    with pytest.raises(ExportError, match=r"'tflite' is registered twice"):
        formats.register(formats.find("tflite"))


@pytest.mark.parametrize("name", ALL)
def test_a_model_that_answers_differently_each_time_is_a_parity_error(name, tmp_path):
    model = Function(lambda x: x + torch.rand(8))
    with pytest.raises(ParityError, match=rf"{name}: output 0 differs from the PyTorch model at \[0, \d\]"):
        export(model, (torch.ones(1, 8),), [name], tmp_path)
    assert list(tmp_path.iterdir()) == [], "no file with wrong outputs is left"


@pytest.mark.parametrize("name", ALL)
def test_a_branch_on_values_is_refused_by_every_format(name, tmp_path):
    model = Function(lambda x: x if x.sum() > 0 else -x)
    with pytest.raises(CaptureError, match="cannot capture the model"):
        export(model, (torch.ones(1, 8),), [name], tmp_path)


@pytest.mark.parametrize(
    ("function", "operation"),
    [
        (torch.erfinv, "aten.erfinv.default"),
        (lambda x: torch.fft.rfft(x).real, "aten.view_as_real.default"),
        (lambda x: torch.sort(x)[0], "STABLEHLO_SORT"),
    ],
)
def test_an_operation_tflite_lacks_is_named(function, operation, tmp_path):
    with pytest.raises(ExportError, match=operation):
        export(Function(function), (torch.ones(1, 8),), ["tflite"], tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(nn.AdaptiveMaxPool1d(1), (1, 8, 6)), (nn.AdaptiveMaxPool2d((1, 3)), (1, 8, 4, 6)), (nn.AdaptiveMaxPool2d(2), (1, 8, 4, 6))],
    ids=["whole", "rows", "quarters"],
)
def test_an_adaptive_max_pool_of_equal_windows_is_a_max_pool(layer, shape, tmp_path):
    """The converter has no form for the adaptive one."""
    inputs = (torch.randn(shape),)
    path = export(nn.Sequential(layer, nn.ReLU()), inputs, ["tflite"], tmp_path)["tflite"]
    torch.testing.assert_close(formats.find("tflite").run(path, inputs)[0], torch.relu(layer(*inputs)), rtol=1e-5, atol=1e-5)
    kinds = [kind for kind, *_ in flatbuffer.operators(flatbuffer.read(path.read_bytes()))]
    assert "MAX_POOL_2D" in kinds


def test_a_model_that_does_not_fit_its_inputs(tmp_path):
    with pytest.raises(ExportError, match="does not run on inputs shaped like the example inputs"):
        export(nn.Linear(4, 4), (torch.ones(1, 5),), ["torchscript"], tmp_path)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match="cannot be made"):
        export(nn.Linear(4, 4), (torch.ones(1, 4),), ["torchscript"], tmp_path / "file")


def test_a_started_export_is_of_the_model_as_it_was(tmp_path):
    model, inputs = nn.Linear(4, 4), (torch.randn(1, 4),)
    expected = model(*inputs).detach()
    future = start_export(model, inputs, ["tflite", "torchscript"], tmp_path)
    with torch.no_grad():
        model.weight.zero_()
    for name, path in future.result(timeout=300).items():
        torch.testing.assert_close(formats.find(name).run(path, inputs)[0], expected, rtol=1e-4, atol=1e-4)


def test_a_started_export_fails_in_its_future(tmp_path):
    future = start_export(Function(torch.erfinv), (torch.ones(1, 8),), ["tflite"], tmp_path)
    assert isinstance(future.exception(timeout=300), ExportError)
