"""Models that harm their process, clocks that are wrong, disks that are full when a model comes: nothing hangs, and nothing is left."""

from __future__ import annotations

import json
import os
import subprocess
import time
from functools import partial
from pathlib import Path

import pytest
from board.models import endless_tflite, hungry_tflite
from board.watching import runners, sessions, wait_until

from edgeprune.bench import Artifact, BenchOptions, open_device
from edgeprune.bench.history import History
from edgeprune.cli import main
from edgeprune.devices import connect, open_runner
from edgeprune.errors import DeviceBusyError, DeviceFullError, ModelCrashedError, RunnerError
from edgeprune.testing.models import crashing_tflite
from edgeprune.testing.sshd import SshServer

LONG = BenchOptions(threads=1, min_time_s=60, max_time_s=90, energy=False)


# models


@pytest.fixture
def harmful(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file of the parameter's kind."""
    make = {"crashing": crashing_tflite, "endless": endless_tflite, "hungry": lambda: hungry_tflite(64)}
    path = tmp_path / f"{request.param}.tflite"
    path.write_bytes(make[request.param]())
    return path


@pytest.mark.device
@pytest.mark.parametrize("own_sshd", [["prlimit", f"--as={6 << 30}"]], ids=["6GB"], indirect=True)  # less than the hungry one wants
@pytest.mark.parametrize(
    ("harmful", "told"),
    [
        ("crashing", r"crashing\.tflite on ssh://.* died of signal SIGSEGV"),
        ("endless", r"endless\.tflite on ssh://.* did not answer within 2 s"),
        ("hungry", r"hungry\.tflite on ssh://"),
    ],
    indirect=["harmful"],
)
def test_a_harmful_model_is_named_and_the_device_continues(own_sshd: SshServer, harmful: Path, told: str, dense_model: Path) -> None:
    quick = BenchOptions(threads=1, min_time_s=0.05, max_time_s=0.1, warmup_s=0.1, step_timeout_s=2, energy=False)
    with open_device(own_sshd.address) as device:
        with pytest.raises((ModelCrashedError, RunnerError), match=told):
            device.measure([Artifact(harmful)], quick)
        wait_until(lambda: len(runners(own_sshd.home)) == 1)  # only the lock's holder
        assert device.measure([Artifact(dense_model)], quick)[0].latency_ms > 0
    assert sessions(own_sshd.home) == []


@pytest.mark.parametrize("harmful", ["crashing"], indirect=True)
def test_a_fault_is_not_a_result(
    client_home: Path, harmful: Path, dense_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(client_home / "data"))
    assert main(["bench", str(harmful), "--json"]) == 1
    out, err = capsys.readouterr()
    assert set(json.loads(out)) == {"error", "exit_code"}
    assert "SIGSEGV" in err
    with History() as history:
        assert history.entries() == []
    monkeypatch.setattr("edgeprune.bench.BenchOptions", partial(BenchOptions, warmup_s=0.1))
    assert main(["bench", str(dense_model), "--threads", "1", "--min-time", "0.05", "--max-time", "0.1", "--json"]) == 0
    with History() as history:
        assert [entry.measurement.name for entry in history.entries()] == ["dense.tflite"]


# clocks


@pytest.mark.device
@pytest.mark.parametrize("clock", ["-30y", "+30y"])
def test_a_device_whose_clock_is_wrong(clock: str, own_sshd: SshServer, dense_model: Path) -> None:
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
    if library is None:
        pytest.skip("libfaketime is not installed")
    own_sshd.set_environment(LD_PRELOAD=str(library), FAKETIME=clock, FAKETIME_DONT_FAKE_MONOTONIC="1")
    with connect(own_sshd.address) as session:
        year = int(session.run(["date", "+%Y"]).stdout)
        assert abs(year - time.gmtime().tm_year) >= 29
    quick = BenchOptions(threads=1, min_time_s=0.05, max_time_s=0.1, warmup_s=0.1, energy=False)
    with open_device(own_sshd.address) as device:
        (measured,) = device.measure([Artifact(dense_model)], quick)
        assert 0 < measured.latency_ms < 1000
        assert 0 <= measured.load_ms < 60_000
        with pytest.raises(DeviceBusyError):
            open_runner(own_sshd.address, lock_timeout_s=0.3)
    assert sessions(own_sshd.home) == []


@pytest.mark.device
def test_a_disk_that_is_full_when_the_model_comes(own_sshd: SshServer, small_disk: Path, tmp_path: Path) -> None:
    large = tmp_path / "large.tflite"
    large.write_bytes(os.urandom(1 << 21))
    cache = own_sshd.home / ".cache/edgeprune"
    cache.mkdir(parents=True)
    own_sshd.own(own_sshd.home)
    subprocess.run(["mount", "--bind", str(small_disk), str(cache)], check=True)
    try:
        with open_device(own_sshd.address) as device, pytest.raises(DeviceFullError, match=r"No space left.*free"):
            device.measure([Artifact(large)], LONG)
        assert sessions(own_sshd.home) == []
        assert not list(cache.rglob("*.part"))
    finally:
        subprocess.run(["umount", str(cache)], check=True)
