"""Transposes that a file can do without: taken out, and nothing else is changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeprune.export import export
from edgeprune.micro import read_graph
from edgeprune.tflite import schema as flatbuffer
from edgeprune.tflite.interpreter import open_tflite
from edgeprune.tflite.transposes import without_moves


class Windows(nn.Module):
    """Convolutions over one dimension: the converter puts reshapes and transposes around them, and one before the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv1d(3, 6, 5, padding=2), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(6, 8, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.body(x.transpose(1, 2)).mean(2))
        return scores


class Turned(nn.Module):
    """A transpose that is needed."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(x.transpose(1, 2))
        return scores


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("layout")
    models: dict[str, tuple[nn.Module, tuple[int, ...]]] = {"windows": (Windows(), (1, 16, 3)), "turned": (Turned(), (1, 6, 5))}
    made = {name: export(model, (torch.zeros(shape),), ["tflite"], folder, name) for name, (model, shape) in models.items()}
    return {name: paths["tflite"].read_bytes() for name, paths in made.items()}


def outputs(content: bytes) -> np.ndarray[Any, Any]:
    interpreter = open_tflite(content)
    (detail,) = interpreter.get_input_details()
    interpreter.set_tensor(detail["index"], np.random.default_rng(0).standard_normal(detail["shape"]).astype(np.float32))
    interpreter.invoke()
    found: np.ndarray[Any, Any] = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    return found


def names(content: bytes) -> list[str]:
    return [operator.name for operator in read_graph(content, "net").operators]


def test_moves_that_cancel_out_go(files: dict[str, bytes]) -> None:
    lean = without_moves(files["windows"])
    assert names(files["windows"]).count("TRANSPOSE") >= 2
    assert names(lean) == ["RESHAPE", "CONV_2D", "MAX_POOL_2D", "CONV_2D", "MEAN", "FULLY_CONNECTED"]
    assert len(names(lean)) < len(names(files["windows"]))
    assert len(lean) < len(files["windows"])
    np.testing.assert_allclose(outputs(lean), outputs(files["windows"]), rtol=1e-6, atol=1e-6)


def test_no_tensor_is_left_that_nothing_reads_or_makes(files: dict[str, bytes]) -> None:
    graph = flatbuffer.read(without_moves(files["windows"])).subgraphs[0]
    used = {int(index) for operator in graph.operators for side in (operator.inputs, operator.outputs) for index in side}
    assert used | {*map(int, graph.inputs), *map(int, graph.outputs)} == set(range(len(graph.tensors)))


def test_signatures_still_name_inputs_and_outputs(files: dict[str, bytes]) -> None:
    interpreter = open_tflite(without_moves(files["windows"]))
    runner = interpreter.get_signature_runner()
    (name,) = runner.get_input_details()
    probe = np.random.default_rng(0).standard_normal((1, 16, 3)).astype(np.float32)
    (found,) = runner(**{name: probe}).values()
    np.testing.assert_allclose(found, outputs(files["windows"]), rtol=1e-6, atol=1e-6)


def test_a_transpose_that_is_needed_stays(files: dict[str, bytes]) -> None:
    assert "TRANSPOSE" in names(files["turned"])
    assert without_moves(files["turned"]) == files["turned"]


def test_doing_it_twice_changes_nothing_more(files: dict[str, bytes]) -> None:
    lean = without_moves(files["windows"])
    assert without_moves(lean) == lean == without_moves(files["windows"])


def test_models_this_project_did_not_make_stay_as_they_are(models_folder: Path) -> None:
    for name in ("ad01_int8", "kws_ref_model", "pretrainedResnet_quant", "vww_96_int8"):
        content = (models_folder / f"{name}.tflite").read_bytes()
        assert without_moves(content) == content
