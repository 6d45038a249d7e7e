"""Comparisons, TorchScript, and the bench command, on this machine and over SSH, with single-kernel models."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from edgeprune.bench import Artifact, BenchOptions, Device, open_device
from edgeprune.cli import main
from edgeprune.cost.kernels import KernelSpec
from edgeprune.cost.single_tflite import single_tflite
from edgeprune.cost.single_torchscript import single_torchscript
from edgeprune.errors import InputError, ModelCrashedError
from edgeprune.testing.sshd import SshServer, children

FORM = KernelSpec("conv2d", (8, 8), (8, 8), (3, 3), (1, 1), 1, True)
SHAPE = ((1, 8, 8, 8), "float32")
QUICK = BenchOptions(threads=1, min_time_s=0.05, max_time_s=0.2, warmup_s=0.1, rounds=2, energy=False)


def _write(folder: Path, widths: dict[str, int]) -> dict[str, Artifact]:
    for name, width in widths.items():
        (folder / f"{name}.tflite").write_bytes(single_tflite(FORM, 8, width))
    return {name: Artifact(folder / f"{name}.tflite", name) for name in widths}


@pytest.fixture
def torchscript(tmp_path: Path) -> Artifact:
    path = tmp_path / "conv.pt"
    path.write_bytes(single_torchscript(FORM, 8, 8))
    return Artifact(path, inputs=(SHAPE,))


@pytest.fixture(params=["local:", pytest.param("ssh://box", marks=pytest.mark.device)])
def target(request: pytest.FixtureRequest, client_home: Path) -> str:
    if request.param != "local:":
        request.getfixturevalue("sshd")
    return request.param


@pytest.fixture
def device(target: str):
    with open_device(target) as opened:
        yield opened


def test_a_model_against_itself_has_a_ratio_near_1(device: Device, tmp_path: Path) -> None:
    models = _write(tmp_path, {"one": 64, "same": 64})
    options = BenchOptions(threads=1, min_time_s=0.2, max_time_s=0.4, warmup_s=0.1, rounds=4, energy=False)
    (ratio,) = device.compare(models["one"], [models["same"]], options).ratios
    assert ratio.low <= ratio.ratio <= ratio.high
    assert ratio.low < 1.1
    assert ratio.high > 0.9


def test_several_candidates_keep_their_order_and_names(device: Device, tmp_path: Path) -> None:
    models = _write(tmp_path, {"base": 128, "half": 64, "small": 8})
    found = device.compare(models["base"], [models["small"], models["half"]], QUICK)
    assert [item.name for item in found.measurements] == ["base", "small", "half"]
    small, half = found.ratios
    assert (small.name, half.name) == ("small", "half")
    assert small.ratio < half.ratio < 1


def test_two_models_of_one_name_are_refused(device: Device, tmp_path: Path) -> None:
    model = _write(tmp_path, {"one": 8})["one"]
    with pytest.raises(InputError, match="two models are named 'one'"):
        device.compare(model, [model], QUICK)


@pytest.mark.device  # every model is loaded by a process of its own, which imports PyTorch
def test_torchscript_is_measured_and_computes_what_it_does_here(target: str, torchscript: Artifact) -> None:
    values = np.random.default_rng(0).standard_normal(SHAPE[0]).astype(np.float32)
    expected = torch.jit.load(io.BytesIO(torchscript.path.read_bytes()))(torch.from_numpy(values))
    with open_device(target, engine="torchscript") as device:
        (found,) = device.measure([torchscript], QUICK)
        (output,) = device.outputs(torchscript, [values])
        (again,) = device.measure([Artifact(torchscript.path)], QUICK)  # the file itself tells its inputs' shapes
        assert again.runtime == found.runtime
    assert (found.runtime, found.threads) == ("torch", 1)
    assert 0 < found.low_ms <= found.latency_ms <= found.high_ms
    np.testing.assert_allclose(output, expected.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_seeded_outputs_are_the_same_everywhere(device: Device, tmp_path: Path, client_home: Path) -> None:
    model = _write(tmp_path, {"one": 8})["one"]
    first, again, other = device.outputs(model, seed=1), device.outputs(model, seed=1), device.outputs(model, seed=2)
    np.testing.assert_array_equal(first[0], again[0])
    assert not np.array_equal(first[0], other[0])
    values = np.random.RandomState(1).standard_normal((1, 8, 8, 8)).astype(np.float32)
    np.testing.assert_array_equal(device.outputs(model, [values])[0], first[0])


@pytest.mark.parametrize("others", [[], ["other"]])
def test_a_candidate_that_dies_while_it_is_sampled_is_named(client_home: Path, tmp_path: Path, others: list[str]) -> None:
    models = _write(tmp_path, {"base": 8, "victim": 64, "other": 16})
    slow = BenchOptions(threads=1, min_time_s=0.8, max_time_s=0.8, warmup_s=0.1, rounds=1, energy=False)
    killed = threading.Event()
    with open_device("local:") as device:
        killer = threading.Thread(target=_kill_model, args=(models["victim"].path.read_bytes(), 1 + 1 + len(others), killed))
        killer.start()
        with pytest.raises(ModelCrashedError, match=r"victim.*SIGKILL"):
            device.compare(models["base"], [models["victim"], *(models[name] for name in others)], slow)
        killer.join()
    assert killed.is_set()


def _kill_model(content: bytes, count: int, killed: threading.Event) -> None:
    """Kill the process that holds a model, once ``count`` of them are loaded."""
    file = f"{hashlib.sha256(content).hexdigest()[:16]}.tflite"
    for _ in range(1000):
        models = {}
        for runner in children(os.getpid()):
            for pid in children(runner):
                with contextlib.suppress(OSError):
                    models[pid] = Path(f"/proc/{pid}/maps").read_text()
        loaded = [pid for pid, maps in models.items() if ".tflite" in maps]
        if len(loaded) == count:
            time.sleep(0.4)  # beyond the warm-up: into the turns
            os.kill(next(pid for pid in loaded if file in models[pid]), signal.SIGKILL)
            killed.set()
            return
        time.sleep(0.02)


def test_a_baseline_that_crashes_is_named(client_home: Path, tmp_path: Path, crashing_model: Path) -> None:
    with open_device("local:") as device, pytest.raises(ModelCrashedError, match=r"baseline.*SIGSEGV"):
        device.compare(Artifact(crashing_model, "baseline"), [_write(tmp_path, {"one": 8})["one"]], QUICK)


# the command, as a user calls it


def _edgeprune(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgeprune", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def quick_bench(client_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """``edgeprune bench`` with few rounds and little warming up; its JSON document."""
    monkeypatch.setattr("edgeprune.bench.BenchOptions", partial(BenchOptions, warmup_s=0.1, rounds=2))

    def call(*arguments: object) -> dict:
        code = main(["bench", *map(str, arguments), "--min-time", "0.1", "--max-time", "0.2", "--no-energy", "--json"])
        out, err = capsys.readouterr()
        assert code == 0, err
        return json.loads(out)

    return call


def test_the_command_compares_and_prints_one_document(quick_bench, tmp_path: Path) -> None:
    models = _write(tmp_path, {"small": 8, "large": 128})
    (comparison,) = quick_bench(models["small"].path, "--against", models["large"].path, "--threads", "1")["comparisons"]
    assert [item["name"] for item in comparison["measurements"]] == ["large.tflite", "small.tflite"]
    assert comparison["ratios"][0]["ratio"] < 1


def test_the_command_measures_each_number_of_threads(quick_bench, tmp_path: Path) -> None:
    model = _write(tmp_path, {"small": 8})["small"]
    assert [item["threads"] for item in quick_bench(model.path, "--threads", "1,2")["measurements"]] == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bench", "MODEL", "--target", "pi7"], "unknown target 'pi7'"),
        (["bench", "MISSING"], "does not exist"),
        (["probe", "http://x", "--json"], "unknown kind"),
        (["bench", "REFUSED", "--json"], "refused.tflite"),
    ],
)
def test_a_failure_is_one_message_on_stderr(arguments: list[str], message: str, client_home: Path, tmp_path: Path) -> None:
    model, refused = _write(tmp_path, {"small": 8})["small"].path, tmp_path / "refused.tflite"
    refused.write_bytes(b"no model")
    paths = {"MODEL": model, "MISSING": tmp_path / "none.tflite", "REFUSED": refused}
    done = _edgeprune(*(paths.get(argument, argument) for argument in arguments))
    assert done.returncode == 1
    assert (json.loads(done.stdout)["exit_code"] if "--json" in arguments else done.stdout) == (1 if "--json" in arguments else "")
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_the_commands_over_ssh(sshd: SshServer, tmp_path: Path) -> None:
    model = _write(tmp_path, {"small": 8})["small"]
    assert _edgeprune("targets", "add", "bench", sshd.address).returncode == 0
    listed = json.loads(_edgeprune("targets", "list", "--json").stdout)
    assert listed == [{"name": "bench", "address": sshd.address, "profile": None}]
    probed = json.loads(_edgeprune("probe", "bench", "--json").stdout)
    assert probed["address"] == sshd.address
    assert {"tflite", "torchscript"} <= set(probed["runtimes"])
    quick = ["--threads", "1", "--min-time", "0.1", "--max-time", "0.2", "--json"]
    measured = json.loads(_edgeprune("bench", model.path, "--target", "bench", *quick).stdout)
    assert measured["device"]["machine"] == probed["machine"]
    assert measured["measurements"][0]["latency_ms"] > 0
