"""The engine contract against the real runtimes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from edgeprune.targets.runner.engines import ENGINES, ModelRefused
from edgeprune.targets.runner.registry import Registry

from edgeprune.testing.engines import EngineContract


class _Fixtures(EngineContract):
    @pytest.fixture
    def refused(self) -> type[Exception]:
        return ModelRefused


class TestTflite(_Fixtures):
    @pytest.fixture
    def engine(self):
        return ENGINES.get("tflite")()

    @pytest.fixture
    def model(self, dense_model: Path) -> Path:
        return dense_model

    @pytest.fixture
    def specs(self) -> None:
        return None


class TestTorchScript(_Fixtures):
    @pytest.fixture
    def engine(self):
        return ENGINES.get("torchscript")()

    @pytest.fixture
    def model(self, tmp_path: Path, weights: np.ndarray) -> Path:
        import torch

        layer = torch.nn.Linear(weights.shape[1], weights.shape[0], bias=False)
        layer.weight.data = torch.from_numpy(weights)
        torch.jit.trace(layer.eval(), torch.zeros(1, weights.shape[1])).save(str(tmp_path / "dense.pt"))
        return tmp_path / "dense.pt"

    @pytest.fixture
    def specs(self, weights: np.ndarray) -> list[dict]:
        return [{"shape": [1, weights.shape[1]], "dtype": "float32"}]

    def test_needs_the_inputs_shapes(self, engine, model: Path) -> None:
        with pytest.raises(ModelRefused, match="shapes"):
            engine.load(str(model), 1, None)

    def test_reads_the_inputs_shapes_of_a_file_that_holds_them(
        self, engine, tmp_path: Path, specs: list[dict], weights: np.ndarray
    ) -> None:
        import torch

        module = torch.jit.trace(torch.nn.Identity(), torch.zeros(1, weights.shape[1]))
        torch.jit.save(module, str(tmp_path / "own.pt"), _extra_files={"edgeprune.inputs.json": json.dumps(specs)})
        assert engine.load(str(tmp_path / "own.pt"), 1, None).specs == specs


def test_an_unknown_engine_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown engine 'npu'; known: executorch, native, onnx, tflite, torchscript"):
        ENGINES.get("npu")


def test_a_name_taken_twice_is_an_error() -> None:
    registry: Registry[object] = Registry("thing", "json")
    registry.register("one")(object)
    with pytest.raises(ValueError, match="'one' is registered twice"):
        registry.register("one")(object)
