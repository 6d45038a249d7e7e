"""Models, data and options as users bring them: what is taken, and what is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from edgeprune.errors import ExportError
from edgeprune.export import ExportOptions, cache, calibration_of, export, formats, read_metadata
from edgeprune.export.metadata import task_metadata
from edgeprune.export.parity import fidelity
from edgeprune.task import Task

IMAGE = (torch.zeros(1, 3, 8, 8),)


class Scalar(nn.Module):
    """Its output has no dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).squeeze()


class Nested(nn.Module):
    """Takes a pair and, may be, a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, x: Tensor, pair: tuple[Tensor, Tensor], mask: Tensor | None = None) -> Tensor:
        out = self.layer(x) * pair[0] + pair[1]
        return out if mask is None else out * mask


def convolution() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()


@pytest.mark.parametrize("kind", ["loader", "list"])
def test_a_calibration_sees_every_class_of_sorted_data(kind: str) -> None:
    labels = torch.arange(1024) // 128
    images = labels.float().reshape(-1, 1, 1, 1).expand(-1, 3, 8, 8)
    loader = DataLoader(TensorDataset(images, labels), batch_size=16)
    data = loader if kind == "loader" else list(loader)
    found = calibration_of(Task(convolution(), IMAGE, train=data))
    assert len(found) == 128
    assert [int(sample[0].mean()) for sample in found] == [place // 16 for place in range(128)]


def test_data_that_can_only_be_iterated_is_taken_from_its_start() -> None:
    class Stream:
        def __iter__(self):  # type: ignore[no-untyped-def]
            return ((torch.zeros(2, 3, 8, 8), torch.zeros(2)) for _ in range(10**9))

    assert len(calibration_of(Task(convolution(), IMAGE, train=Stream()))) == 32  # type: ignore[arg-type]


def test_a_rare_class_that_is_lost_is_not_fidelity() -> None:
    want = [[torch.tensor([[0.0, 1.0 if place % 16 == 0 else -1.0]])] for place in range(64)]
    got = [[torch.tensor([[0.0, -1.0]])] for _ in range(64)]
    found = fidelity(want, got)
    assert (found.agreement, found.balanced) == (60 / 64, 0.5)
    assert not found.good
    assert "50 % with every class counted equally" in str(found)


def test_an_output_without_dimensions_stays_one(tmp_path: Path) -> None:
    model = Scalar().eval()
    x = torch.randn(1, 8)
    path = export(model, (x,), ("tflite",), tmp_path)["tflite"]
    (found,) = formats.find("tflite").run(path, (x,))
    assert found.shape == ()
    assert torch.allclose(found, model(x), atol=1e-5)


@pytest.mark.parametrize("mask", [None, torch.ones(1, 4)])
def test_nested_inputs_become_the_file_s_in_order(mask: Tensor | None, tmp_path: Path) -> None:
    model = Nested().eval()
    given = (torch.randn(1, 8), (torch.randn(1, 4), torch.randn(1, 4)), mask)
    files = export(model, given, ("tflite", "torchscript"), tmp_path)
    flat = (given[0], *given[1], *(() if mask is None else (mask,)))
    for name, path in files.items():
        assert torch.allclose(formats.find(name).run(path, flat)[0], model(*given), atol=1e-5)


def test_a_float16_model_is_named_as_one(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="input 0 is float16") as raised:
        export(convolution().half(), (torch.zeros(1, 3, 8, 8, dtype=torch.float16),), ("tflite",), tmp_path)
    assert "tflite-fp16" in raised.value.remedy


def test_weights_that_are_not_numbers_are_named(tmp_path: Path) -> None:
    model = convolution()
    with torch.no_grad():
        model[4].weight[0, 0] = torch.nan
    with pytest.raises(ExportError, match=r"4\.weight holds NaN"):
        export(model, IMAGE, ("torchscript",), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [{"channels_last": True}, {"keep_float": ("x",)}, {"integer_io": True}])
def test_options_that_would_change_nothing_are_refused(options: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=f"{next(iter(options))} is for tflite"):
        export(convolution(), IMAGE, ("torchscript",), tmp_path, options=ExportOptions(**options))  # type: ignore[arg-type]


def test_images_of_whole_numbers_are_laid_out_channels_last_too(tmp_path: Path) -> None:
    class Camera(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = convolution()

        def forward(self, x: Tensor) -> Tensor:
            return self.layers(x.float() / 255)

    x = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8)
    path = export(Camera().eval(), (x,), ("tflite",), tmp_path, options=ExportOptions(channels_last=True))["tflite"]
    assert read_metadata(path)["channels_last"] == [0]


def test_a_damaged_cache_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first = export(convolution(), IMAGE, ("tflite",), tmp_path)["tflite"].read_bytes()
    (kept,) = (tmp_path / "cache/edgeprune/export").iterdir()
    content = kept.read_bytes()
    for damaged in (b"", content[:-3] + b"abc", content[: len(content) // 2]):
        kept.write_bytes(damaged)
        assert cache.read(kept.stem) is None
    assert export(convolution(), IMAGE, ("tflite",), tmp_path)["tflite"].read_bytes() == first
    assert kept.read_bytes() == content


def test_what_cannot_be_stored_in_a_file_is_refused() -> None:
    for metadata in ({"scale": float("nan")}, {"labels": ["\ud800"]}):
        with pytest.raises(ExportError, match="metadata cannot be written as JSON"):
            ExportOptions(metadata=metadata)


def test_a_file_says_how_it_was_pruned() -> None:
    task = Task(convolution(), IMAGE, labels=["a", "b", "c", "d"])
    told = task_metadata(task, convolution(), {"latency": "50%", "memory": None})
    assert told["pruned"] == {"parameters": 260, "of": 260, "latency": "50%"}
    assert told["labels"] == ["a", "b", "c", "d"]
