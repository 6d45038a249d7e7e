"""A device, TFLite Micro and a profile's prior are measured at in the same way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from measured import MEASURED, device_info
from torch import nn

from edgeprune.bench import Artifact, BenchOptions, Comparison, KernelTime, Measurement, Ratio
from edgeprune.errors import ParityError
from edgeprune.graph import Analysis, analyze
from edgeprune.profile import load
from edgeprune.search.events import SILENT
from edgeprune.search.measure.backend import MeasurementBackend
from edgeprune.search.measure.device import DeviceBackend
from edgeprune.search.measure.micro import MicroBackend
from edgeprune.search.measure.predicted import PredictedBackend
from edgeprune.testing.backends import BackendContract, Opener, Probe
from edgeprune.testing.models import dense_tflite
from edgeprune.tflite.interpreter import invoke, open_tflite


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return analyze(nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)).eval(), (torch.zeros(1, 16),))


@pytest.fixture
def dense(tmp_path: Path, weights: np.ndarray) -> Path:
    path = tmp_path / "dense.tflite"
    path.write_bytes(dense_tflite(weights))
    return path


@pytest.fixture
def smaller(tmp_path: Path, weights: np.ndarray) -> Path:
    path = tmp_path / "smaller.tflite"
    path.write_bytes(dense_tflite(weights[:32]))
    return path


@pytest.fixture
def probe(dense: Path) -> Probe:
    inputs = [torch.randn(1, 256, generator=torch.Generator().manual_seed(0))]
    interpreter = open_tflite(dense.read_bytes())
    invoke(interpreter, inputs)
    return inputs, [torch.from_numpy(interpreter.get_tensor(item["index"])) for item in interpreter.get_output_details()]


SPREAD = {"latency_ms": 1.0, "low_ms": 0.99, "high_ms": 1.01, "p90_ms": 1.1, "p99_ms": 1.2}


class FakeDevice:
    """Times are in proportion to the files' sizes; outputs are those of this machine."""

    def __init__(self, target: str, **options: Any) -> None:
        self.info = replace(device_info(), runtimes={"tflite": ("ai-edge-litert", "2.3.0")})

    def _measured(self, artifact: Artifact) -> Measurement:
        content = artifact.path.read_bytes()
        size = len(content)
        ms = {name: factor * size / 1e3 for name, factor in SPREAD.items()}
        return replace(MEASURED, **ms, file_bytes=size, file_sha256=sha256(content).hexdigest())

    def measure(self, artifacts: Sequence[Artifact], options: BenchOptions) -> list[Measurement]:
        return [self._measured(artifact) for artifact in artifacts]

    def compare(self, baseline: Artifact, candidates: Sequence[Artifact], options: BenchOptions) -> Comparison:
        first, second = self._measured(baseline), self._measured(candidates[0])
        ratio = second.latency_ms / first.latency_ms
        return Comparison((first, second), (Ratio("pruned", ratio, 0.99 * ratio, 1.01 * ratio, "faster"),))

    def table(self, files: dict[str, bytes], engine: str, options: BenchOptions) -> dict[str, KernelTime]:
        return {name: KernelTime(1e3 * len(content), 1e3, 0.0) for name, content in files.items()}

    def outputs(self, artifact: Artifact, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        interpreter = open_tflite(artifact.path.read_bytes())
        invoke(interpreter, [torch.from_numpy(value) for value in inputs])
        return [interpreter.get_tensor(item["index"]) for item in interpreter.get_output_details()]

    def close(self) -> None:
        pass


class TestDevice(BackendContract):
    @pytest.fixture
    def open_backend(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Opener:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setattr("edgeprune.search.measure.device.open_device", FakeDevice)
        return lambda run: DeviceBackend(run, "local:", "tflite", BenchOptions(), SILENT)

    def test_outputs_that_differ_are_refused(self, backend: MeasurementBackend, dense: Path, probe: Probe) -> None:
        inputs, expected = probe
        with pytest.raises(ParityError, match="differs from the host's"):
            backend.check_outputs(dense, inputs, lambda: [2.0 * value for value in expected], 1e-3)


class TestMicro(BackendContract):
    @pytest.fixture
    def open_backend(self) -> Opener:
        pytest.importorskip("tflite_micro")
        return lambda run: MicroBackend(run, load("nrf5340"))


class TestPredicted(BackendContract):
    @pytest.fixture
    def open_backend(self) -> Opener:
        return lambda run: PredictedBackend(load("raspberry-pi-4"), "tflite")
