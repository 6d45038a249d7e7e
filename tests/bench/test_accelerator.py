"""Measuring on what is not the processor: refused where it is missing; on a GPU in software, of real use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from edgeprune.bench import Artifact, BenchOptions, Measurement, comparable, open_device, probe
from edgeprune.cli.bench import command as bench_command
from edgeprune.devices.targets import add_target, list_targets, resolve_target
from edgeprune.errors import AcceleratorError, IncomparableError, InputError, RunnerError
from edgeprune.tflite.builder import Builder

QUICK = BenchOptions(threads=1, min_time_s=0.05, max_time_s=0.2, warmup_s=0.1, rounds=2, energy=False)


def partly_tflite() -> bytes:
    """TANH, L2_NORMALIZATION and LOGISTIC: LiteRT's GPU takes the first alone."""
    graph = Builder()
    first, second, third, last = (graph.tensor((1, 16, 8)) for _ in range(4))
    graph.op("TANH", [first], second)
    graph.op("L2_NORMALIZATION", [second], third)
    graph.op("LOGISTIC", [third], last)
    return graph.build([first], [last])


def test_what_is_not_there_is_refused_before_anything_is_measured(client_home: Path, dense_model: Path) -> None:
    with pytest.raises(AcceleratorError, match=r"no accelerator 'cuda' here; there are: cpu") as caught:
        open_device("local:", accelerator="cuda")
    assert "edgeprune probe" in str(caught.value.remedy)
    done = CliRunner().invoke(bench_command, [str(dense_model), "--accelerator", "libnone.so"])
    assert isinstance(done.exception, AcceleratorError)


@pytest.mark.parametrize("name", ["", "two words", "gpu;rm", "openvino?device_type", "a?b=c?d=e"])
def test_what_cannot_be_a_name(name: str) -> None:
    with pytest.raises(InputError, match="cannot be an accelerator"):
        BenchOptions(accelerator=name)


@pytest.mark.parametrize("text", ["0%", "101%", "most", "-5%"])
def test_what_cannot_be_a_share(text: str, dense_model: Path) -> None:
    done = CliRunner().invoke(bench_command, [str(dense_model), "--require-delegated", text])
    assert done.exit_code == 2
    assert "is not a share" in done.output


def test_a_target_has_its_accelerator(client_home: Path) -> None:
    add_target("board", "local:")
    add_target("board-gpu", "local:", accelerator="gpu")
    assert [target.accelerator for target in list_targets()] == [None, "gpu"]
    assert resolve_target("board-gpu").accelerator == "gpu"
    add_target("board-cuda", "local:", accelerator="cuda")
    with pytest.raises(AcceleratorError, match="'cuda'"):
        open_device("board-cuda")


def test_the_processor_is_not_mentioned(client_home: Path, dense_model: Path) -> None:
    with open_device("local:") as device:
        assert "accelerator" not in device.info.to_json()
        (found,) = device.measure([Artifact(dense_model)], QUICK)
    assert found.accelerator == "cpu"
    assert not {"accelerator", "delegated", "on_cpu"} & set(found.to_json())


@pytest.mark.device
def test_on_a_gpu(swiftshader: None, client_home: Path, dense_model: Path, weights: np.ndarray) -> None:
    values = np.random.default_rng(1).standard_normal((1, weights.shape[1])).astype(np.float32)
    with open_device("local:") as device:
        (usual,) = device.measure([Artifact(dense_model)], QUICK)
        processor = device.info
    with open_device("local:", accelerator="gpu") as device:
        (found,) = device.measure([Artifact(dense_model)], QUICK)
        (output,) = device.outputs(Artifact(dense_model), [values])
        table = device.table({"a.tflite": dense_model.read_bytes(), "b.tflite": b"\0" * 99}, options=QUICK)
    np.testing.assert_allclose(output, values @ weights.T, rtol=1e-2, atol=1e-2)
    assert (found.accelerator, found.delegated, found.on_cpu) == ("gpu", 1.0, ())
    assert "gpu by SwiftShader" in found.device
    assert device.info.key("tflite") != processor.key("tflite")
    assert Measurement.from_json(found.to_json()) == found
    with pytest.raises(IncomparableError, match="accelerators: cpu and gpu"):
        comparable(usual, found)
    assert table["a.tflite"].median_ns > 0
    assert table["b.tflite"].error


@pytest.mark.device
def test_what_the_gpu_leaves_is_said(swiftshader: None, client_home: Path, tmp_path: Path) -> None:
    model = tmp_path / "partly.tflite"
    model.write_bytes(partly_tflite())
    with open_device("local:", accelerator="gpu") as device:
        (found,) = device.measure([Artifact(model)], QUICK)
        assert found.delegated == pytest.approx(1 / 3)
        assert "L2_NORMALIZATION" in found.on_cpu
        assert any("gpu took only 33.3% of the operators" in warning for warning in found.warnings)
        strict = BenchOptions(threads=1, min_time_s=0.05, max_time_s=0.2, energy=False, require_delegated=0.95)
        with pytest.raises(RunnerError, match=r"gpu took 33.3% of the operators, and 95.0% is required; left to the processor: .*L2_NORM"):
            device.measure([Artifact(model)], strict)


@pytest.mark.device
def test_a_probe_lists_the_gpu(swiftshader: None, client_home: Path) -> None:
    found = probe("local:").accelerators
    assert [item.name for item in found if item.engine == "tflite"][:1] == ["gpu"]
    assert any("SwiftShader" in item.what for item in found)
