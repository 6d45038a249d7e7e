"""A device, TFLite Micro and a profile's prior are measured at in the same way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from fake_device import FakeDevice
from torch import nn

from edgeprune.bench import BenchOptions
from edgeprune.errors import ParityError
from edgeprune.graph import Analysis, analyze
from edgeprune.profile import load
from edgeprune.runs.directory import RunDirectory
from edgeprune.search.events import SILENT
from edgeprune.search.measure.backend import MeasurementBackend
from edgeprune.search.measure.device import DeviceBackend
from edgeprune.search.measure.micro import MicroBackend
from edgeprune.search.measure.pool import PoolBackend
from edgeprune.search.measure.predicted import PredictedBackend
from edgeprune.testing.backends import BackendContract, Opener, Probe
from edgeprune.tflite.interpreter import invoke, open_tflite


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return analyze(nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)).eval(), (torch.zeros(1, 16),))


@pytest.fixture
def probe(dense: Path) -> Probe:
    inputs = [torch.randn(1, 256, generator=torch.Generator().manual_seed(0))]
    interpreter = open_tflite(dense.read_bytes())
    invoke(interpreter, inputs)
    return inputs, [torch.from_numpy(interpreter.get_tensor(item["index"])) for item in interpreter.get_output_details()]


class TestDevice(BackendContract):
    @pytest.fixture
    def open_backend(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Opener:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setattr("edgeprune.search.measure.board.open_device", FakeDevice)
        return lambda run: DeviceBackend(run, "local:", "tflite", BenchOptions(), SILENT)

    def test_outputs_that_differ_are_refused(self, backend: MeasurementBackend, dense: Path, probe: Probe) -> None:
        inputs, expected = probe
        with pytest.raises(ParityError, match="differs from the host's"):
            backend.check_outputs(dense, inputs, lambda: [2.0 * value for value in expected], 1e-3)


class TestPool(BackendContract):
    @pytest.fixture
    def open_backend(self, monkeypatch: pytest.MonkeyPatch, client_home: Path) -> Opener:
        monkeypatch.setattr("edgeprune.search.measure.board.open_device", FakeDevice)
        return lambda run: PoolBackend(run, "ssh://a,ssh://b", "tflite", BenchOptions(), SILENT)

    @pytest.fixture
    def backend(self, open_backend: Opener, run: RunDirectory, dense: Path) -> Iterator[MeasurementBackend]:
        opened = open_backend(run)
        opened.measure_dense(dense)
        yield opened
        opened.release()


class TestMicro(BackendContract):
    @pytest.fixture
    def open_backend(self) -> Opener:
        pytest.importorskip("tflite_micro")
        return lambda run: MicroBackend(run, load("nrf5340"))


class TestPredicted(BackendContract):
    @pytest.fixture
    def open_backend(self) -> Opener:
        return lambda run: PredictedBackend(load("raspberry-pi-4"), "tflite")
