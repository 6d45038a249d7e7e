"""Measuring on this machine and over SSH: the same expectations for both."""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import edgeprune.bench
from edgeprune.bench import Artifact, BenchOptions, Device, Measurement, Ratio, comparable, open_device
from edgeprune.bench import device as device_module
from edgeprune.cli.bench import command as bench_command
from edgeprune.cli.probe import command as probe_command
from edgeprune.devices import build_runner
from edgeprune.devices.pack import pack
from edgeprune.errors import IncomparableError, InputError, ModelCrashedError, NoRuntimeError, RunnerError, TargetError
from edgeprune.testing.models import dense_tflite

QUICK = BenchOptions(threads=1, min_time_s=0.05, max_time_s=0.2, warmup_s=0.1, rounds=2, energy=False)


@pytest.fixture(params=["local:", pytest.param("ssh://box", marks=pytest.mark.device)])
def device(request: pytest.FixtureRequest, client_home: Path):
    if request.param != "local:":
        request.getfixturevalue("sshd")
    with open_device(request.param) as opened:
        yield opened


def test_a_measurement_is_complete_and_survives_json(device: Device, dense_model: Path) -> None:
    (found,) = device.measure([Artifact(dense_model)], QUICK)
    assert found.low_ms <= found.latency_ms <= found.high_ms
    assert found.latency_ms <= found.p90_ms <= found.p99_ms
    assert found.latency_ms * 1e6 == pytest.approx(np.median(found.samples_ns))
    assert 0 < found.peak_bytes < found.rss_peak_bytes
    assert (found.file_bytes, found.threads, found.name) == (dense_model.stat().st_size, 1, "dense.tflite")
    assert found.file_sha256 == hashlib.sha256(dense_model.read_bytes()).hexdigest()
    assert found.unreliable is False
    assert (found.runtime, found.runtime_version) == device.info.runtimes["tflite"]
    assert found.stop_reason in ("precise", "time limit")
    assert found.energy_mj is None
    assert min(found.load_ms, found.first_ms) > 0
    assert Measurement.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_a_file_that_is_removed_meanwhile_is_reported_as_it_was_sent(client_home: Path, dense_model: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.tflite"
    content = dense_model.read_bytes()
    model.write_bytes(content)

    def on_event(message: dict) -> None:
        if message["event"] == "measured":
            model.unlink()

    with open_device("local:", on_event=on_event) as opened:
        (found,) = opened.measure([Artifact(model)], QUICK)
    assert (found.file_bytes, found.file_sha256) == (len(content), hashlib.sha256(content).hexdigest())


def test_outputs_are_those_of_the_model(device: Device, dense_model: Path, weights: np.ndarray) -> None:
    values = np.random.default_rng(3).standard_normal((1, 256)).astype(np.float32)
    (output,) = device.outputs(Artifact(dense_model), [values])
    np.testing.assert_allclose(output, values @ weights.T, rtol=1e-4, atol=1e-4)


def test_inputs_that_do_not_fit_are_refused(device: Device, dense_model: Path) -> None:
    with pytest.raises(RunnerError, match=r"inputs are .*256"):
        device.outputs(Artifact(dense_model), [np.zeros((1, 3), np.float32)])


def test_a_comparison_finds_the_smaller_model_faster(device: Device, tmp_path: Path) -> None:
    artifacts = []
    for name, size in (("large", 2048), ("small", 64)):
        (tmp_path / f"{name}.tflite").write_bytes(dense_tflite(np.ones((size, 1024), np.float32)))
        artifacts.append(Artifact(tmp_path / f"{name}.tflite", name))
    found = device.compare(artifacts[0], artifacts[1:], QUICK)
    assert [item.name for item in found.measurements] == ["large", "small"]
    assert [ratio.name for ratio in found.ratios] == ["small"]
    assert found.ratios[0].low <= found.ratios[0].ratio <= found.ratios[0].high
    assert found.ratios[0].ratio < 0.5


def test_a_table_times_each_model_and_keeps_failures_apart(device: Device, crashing_model: Path) -> None:
    files = {f"dense {size}": dense_tflite(np.ones((size, 512), np.float32)) for size in (8, 1024)}
    seen: list[tuple[int, int]] = []
    table = device.table(
        files | {"crash": crashing_model.read_bytes(), "refused": b"no model"}, options=QUICK, on_progress=lambda *step: seen.append(step)
    )
    assert set(table) == {"dense 8", "dense 1024", "crash", "refused"}
    assert table["dense 8"].median_ns < table["dense 1024"].median_ns
    for size in (8, 1024):
        item = table[f"dense {size}"]
        assert 0 < item.min_ns <= item.median_ns
        assert item.error is None
    assert "SIGSEGV" in str(table["crash"].error)
    assert math.isnan(table["crash"].median_ns)
    assert "Flatbuffer" in str(table["refused"].error)
    assert seen[-1] == (12, 12)


def test_a_crash_names_the_model_and_the_signal_and_the_device_stays_usable(
    device: Device, dense_model: Path, crashing_model: Path
) -> None:
    with pytest.raises(ModelCrashedError, match=r"crash\.tflite.*SIGSEGV"):
        device.measure([Artifact(crashing_model)], QUICK)
    with pytest.raises(ModelCrashedError, match=r"crash\.tflite.*SIGSEGV"):
        device.compare(Artifact(dense_model), [Artifact(crashing_model)], QUICK)
    assert device.measure([Artifact(dense_model)], QUICK)[0].latency_ms > 0


def test_a_damaged_model_is_refused_by_name(device: Device, tmp_path: Path) -> None:
    (tmp_path / "bad.tflite").write_bytes(b"TFL3" * 10)
    with pytest.raises((RunnerError, InputError), match=r"bad\.tflite"):
        device.measure([Artifact(tmp_path / "bad.tflite")], QUICK)


def test_nothing_but_the_runner_is_left(client_home: Path, dense_model: Path) -> None:
    with open_device("local:") as opened:
        opened.measure([Artifact(dense_model)], QUICK)
        assert list((client_home / ".cache/edgeprune").glob("session-*/*.tflite"))
    left = {path.name for path in (client_home / ".cache/edgeprune").iterdir()}
    assert left == {build_runner()[0], ".sessions"}


def test_models_this_project_did_not_make(models_folder: Path, client_home: Path) -> None:
    with open_device("local:") as opened:
        for path in (models_folder / "kws_ref_model.tflite", models_folder / "pretrainedResnet.tflite"):
            assert opened.measure([Artifact(path)], QUICK)[0].latency_ms > 0
            assert opened.outputs(Artifact(path))[0].size > 0


def test_the_runner_is_reproducible_and_needs_nothing(tmp_path: Path) -> None:
    name, content = build_runner()
    pack.cache_clear()
    assert build_runner() == (name, content)
    (tmp_path / name).write_bytes(content)
    run = [sys.executable, "-I", "-S", str(tmp_path / name)]
    done = subprocess.run(run, input=b'{"action": "probe", "verify": []}\n', capture_output=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1])["event"] == "result"


@pytest.mark.parametrize(
    "request_line",
    [b"", b"no json\n", b"[1]\n", b'{"action": "fly"}\n', b'{"action": "bench", "models": [{"name": "x"}], "options": {"speed": 1}}\n'],
)
def test_a_malformed_request_is_an_error_event(tmp_path: Path, request_line: bytes) -> None:
    (tmp_path / "runner.pyz").write_bytes(build_runner()[1])
    done = subprocess.run([sys.executable, str(tmp_path / "runner.pyz")], input=request_line, capture_output=True, check=False)
    last = json.loads(done.stdout.splitlines()[-1])
    assert (done.returncode, last["event"]) == (1, "error") or "error" in last["result"]["models"][0]


def _measurement(**changes: object) -> Measurement:
    plain = Measurement("m", 1.0, 0.9, 1.1, 1.2, 1.3, (1, 2), 10, 20, 1.0, 1.0, 5, None, None, "r", "1", 1, "d", "precise", True)
    return replace(plain, before={"governor": "performance", "limit_mhz": 1800}, **changes)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"device": "other"}, "devices"),
        ({"runtime_version": "2"}, "runtimes"),
        ({"threads": 2}, "thread counts"),
    ],
)
def test_what_differs_in_kind_is_not_compared(change: dict, what: str) -> None:
    comparable(_measurement(), _measurement(name="n"))
    with pytest.raises(IncomparableError, match=what):
        comparable(_measurement(), _measurement(**change))


def test_another_governor_is_not_compared() -> None:
    with pytest.raises(IncomparableError, match="governors: performance and ondemand"):
        comparable(_measurement(), replace(_measurement(), before={"governor": "ondemand", "limit_mhz": 1800}))


@pytest.mark.parametrize(
    ("ratio", "low", "high", "verdict"),
    [
        (0.5, 0.49, 0.51, "faster"),
        (1.2, 1.19, 1.21, "slower"),
        (1.0, 0.99, 1.01, "same"),
        (0.5, 0.4, 0.6, "inconclusive"),
        (1.0, 0.0, math.inf, "inconclusive"),
        (math.nan, math.nan, math.nan, "inconclusive"),
    ],
)
def test_verdicts(ratio: float, low: float, high: float, verdict: str) -> None:
    assert Ratio.judge("x", ratio, low, high).verdict == verdict


def test_bad_input_is_named(tmp_path: Path, client_home: Path, dense_model: Path) -> None:
    with pytest.raises(InputError, match="unknown kind"):
        edgeprune.bench.bench(tmp_path / "model.bin")
    with pytest.raises(InputError, match="does not exist"):
        edgeprune.bench.bench(tmp_path / "model.tflite")
    with pytest.raises(TargetError, match="pi7"):
        edgeprune.bench.bench(dense_model, target="pi7")
    with pytest.raises(InputError, match="unknown engine 'npu'"):
        open_device("local:", engine="npu")
    with pytest.raises(InputError, match="threads"):
        BenchOptions(threads=0)
    with pytest.raises(InputError, match="not a measurement"):
        Measurement.from_json({"name": "x"})


def test_a_device_without_the_runtime_says_how_to_install_it(client_home: Path) -> None:
    bare = client_home / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    with pytest.raises(NoRuntimeError, match=r"no Python with a runtime for tflite.*Python 3") as caught:
        open_device(f"local:?python={bare}/bin/python")
    assert f"{bare}/bin/python -m pip install ai-edge-litert" in str(caught.value.remedy)
    assert device_module.probe(f"local:?python={bare}/bin/python").runtimes == {}


def test_the_command_prints_a_table_or_one_json_document(client_home: Path, dense_model: Path) -> None:
    arguments = [str(dense_model), "--threads", "1", "--min-time", "0.05", "--max-time", "0.1"]
    assert "median latency" in CliRunner().invoke(bench_command, arguments, catch_exceptions=False).stdout
    done = CliRunner().invoke(bench_command, [*arguments, "--json"], catch_exceptions=False)
    document = json.loads(done.stdout)
    assert document["measurements"][0]["name"] == "dense.tflite"
    assert document["device"]["cores"] >= 1


def test_the_probe_command(client_home: Path) -> None:
    document = json.loads(CliRunner().invoke(probe_command, ["local:", "--json"], catch_exceptions=False).stdout)
    assert set(document["runtimes"]) >= {"tflite", "torchscript"}
    assert document["memory_bytes"] > 0


@pytest.mark.parametrize("arguments", [["--threads", "0"], ["--threads", "a"], ["--input", "1xx"]])
def test_wrong_usage(arguments: list[str], dense_model: Path) -> None:
    assert CliRunner().invoke(bench_command, [str(dense_model), *arguments]).exit_code == 2
