"""A runtime is set up on a bare board, models are measured on it under both TFLite runtimes, it fails and is cleared again."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from board.machine import Board
from board.models import hungry_tflite

from edgeprune.bench import Artifact, BenchOptions, Measurement, open_device, probe
from edgeprune.devices.clear import tear_down
from edgeprune.devices.provision import set_up
from edgeprune.errors import ConnectionLostError, EdgepruneError, ModelCrashedError

QUICK = BenchOptions(threads=1, min_time_s=0.2, max_time_s=1, warmup_s=0.5, energy=False)
ADDRESS = "ssh://board"


@pytest.fixture
def models(dense_model: Path, stand_in_models: Path) -> list[Path]:
    """A small model of floats, and one of int8."""
    return [dense_model, stand_in_models / "kws_ref_model.tflite"]


def measured(models: list[Path]) -> list[Measurement]:
    """Check what the models compute on the board against this machine, then measure them there."""
    artifacts = [Artifact(model) for model in models]
    with open_device("local:") as here, open_device(ADDRESS) as board:
        for artifact in artifacts:
            theirs, ours = (place.outputs(artifact)[0] for place in (board, here))
            # where one runtime rounds a logit the other way, an int8 softmax moves by several of its 256 steps
            np.testing.assert_allclose(theirs.astype(float), ours.astype(float), atol=1e-4 if theirs.dtype == np.float32 else 8)
        return board.measure(artifacts, QUICK)


def test_a_bare_board_is_set_up_without_a_network_or_pip(ready: Board) -> None:
    assert ready.inside("su", "pi", "-c", "python3 -m pip --version").returncode != 0
    assert ready.inside("su", "pi", "-c", "python3 -m venv /tmp/venv").returncode != 0
    info = probe(ADDRESS)
    assert info.runtimes["tflite"][0] == "ai-edge-litert"
    assert info.python_path == "/home/pi/.edgeprune/venv/bin/python"


def test_models_compute_and_are_measured_there(ready: Board, models: list[Path]) -> None:
    for item in measured(models):
        assert 0 < item.low_ms <= item.latency_ms <= item.high_ms
        assert (item.runtime, item.threads) == ("ai-edge-litert", 1)
        assert "aarch64" in item.device
    assert ready.processes() == []


def test_a_model_that_eats_the_boards_memory_is_killed_alone(ready: Board, dense_model: Path, tmp_path: Path) -> None:
    if not ready.limited:
        pytest.skip("no memory limit can be set here")
    hungry = tmp_path / "hungry.tflite"
    hungry.write_bytes(hungry_tflite(4))
    with open_device(ADDRESS) as device:
        with pytest.raises(ModelCrashedError, match=r"hungry\.tflite.*out of memory"):
            device.measure([Artifact(hungry)], QUICK)
        assert device.measure([Artifact(dense_model)], QUICK)[0].latency_ms > 0
    assert ready.processes() == []


def test_a_power_cut_in_the_middle_of_a_run(ready: Board, dense_model: Path) -> None:
    failures: list[EdgepruneError] = []
    device = open_device(ADDRESS, retries=0)

    def measure() -> None:
        try:
            device.measure([Artifact(dense_model)], BenchOptions(threads=1, min_time_s=60, max_time_s=90, energy=False))
        except EdgepruneError as error:
            failures.append(error)

    thread = threading.Thread(target=measure)
    thread.start()
    while thread.is_alive() and not any("--child" in line for line in ready.processes()):
        time.sleep(0.1)
    ready.stop()
    thread.join(60)
    assert [type(error) for error in failures] == [ConnectionLostError]
    assert len(list(ready.home.glob(".cache/edgeprune/session-*"))) == 1
    ready.start()
    with open_device(ADDRESS, lock_timeout_s=10) as again:
        assert len(list(ready.home.glob(".cache/edgeprune/session-*"))) == 1  # its own: the other's remains are gone
        assert again.info.runtimes["tflite"][0] == "ai-edge-litert"
    assert list(ready.home.glob(".cache/edgeprune/session-*")) == []


@pytest.mark.soak
def test_the_older_runtime_takes_its_place_and_clearing_leaves_nothing(ready: Board, models: list[Path]) -> None:
    done = set_up(ADDRESS, runtime="tflite-runtime")
    assert done.runtimes == {"tflite": ("tflite-runtime", "2.14.0")}
    assert any(name.startswith("numpy-1.") for name in done.wheels)
    for item in measured(models):
        assert (item.runtime, item.runtime_version) == ("tflite-runtime", "2.14.0")

    assert {Path(item.path).name for item in tear_down(ADDRESS)} >= {"venv", "edgeprune.lock"}
    left = {path.name for folder in (ready.home, ready.root / "tmp") for path in folder.iterdir()}
    assert left == {".profile", ".ssh"}
    assert ready.processes() == []
