"""Several users of one device at once, and what damaged files on either side do."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from edgeprune.targets.runner.hold import DeviceLock
from edgeprune.targets.runner.protocol import RunnerError
from edgeprune.targets.runner.watchdog import ENDED, wait_for_silence

from edgeprune.bench import Artifact, BenchOptions, open_device, probe
from edgeprune.devices import build_runner, connect
from edgeprune.errors import DeviceError, HostKeyError
from edgeprune.testing.sshd import SshServer, children

QUICK = BenchOptions(threads=1, min_time_s=0.05, max_time_s=0.1, warmup_s=0.05, energy=False)


@pytest.fixture(params=["local:", pytest.param("ssh://box", marks=pytest.mark.device)])
def place(request: pytest.FixtureRequest, client_home: Path) -> tuple[str, Path]:
    """An address, and the home folder there."""
    if request.param == "local:":
        return request.param, client_home
    return request.param, request.getfixturevalue("sshd").home


def test_the_same_file_put_by_many_at_once_arrives_whole(place: tuple[str, Path]) -> None:
    address, home = place
    data = os.urandom(1 << 18) * 8

    def put(_: int) -> None:
        with connect(address) as session:
            session.put(data, f"{home}/together")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(put, range(4)))
    assert (home / "together").read_bytes() == data
    assert [path.name for path in home.iterdir() if path.name.startswith("together")] == ["together"]


def test_two_users_measure_one_after_the_other(place: tuple[str, Path], dense_model: Path) -> None:
    address, home = place
    inside: list[int] = []

    def measure(_: int) -> float:
        with open_device(address, lock_timeout_s=60) as device:
            inside.append(1)
            assert len(inside) == 1
            latency_ms = device.measure([Artifact(dense_model)], QUICK)[0].latency_ms
            inside.pop()
        return latency_ms

    with ThreadPoolExecutor(2) as pool:
        assert min(pool.map(measure, range(2))) > 0
    assert not list(home.glob(".cache/edgeprune/session-*"))


def test_probing_does_not_wait_for_the_lock(place: tuple[str, Path]) -> None:
    address, home = place
    with open_device(address):
        assert probe(address).cores >= 1
        assert len(list(home.glob(".cache/edgeprune/session-*"))) == 1


def test_an_old_part_of_the_runner_is_cleaned_and_a_new_one_is_left(place: tuple[str, Path]) -> None:
    address, home = place
    with connect(address) as session:
        session.mkdir(f"{home}/.cache/edgeprune")
        for name in ("old", "new"):
            session.put(b"half", f"{home}/.cache/edgeprune/{name}.part")
        session.run(["touch", "-d", "2 hours ago", f"{home}/.cache/edgeprune/old.part"])
    with open_device(address):
        assert [path.name for path in home.glob(".cache/edgeprune/*.part")] == ["new.part"]
    (home / ".cache/edgeprune/new.part").unlink()


def test_a_damaged_runner_on_the_device_is_replaced(place: tuple[str, Path]) -> None:
    address, home = place
    name, content = build_runner()
    open_device(address).close()
    (home / ".cache/edgeprune" / name).write_bytes(content[:-1])
    open_device(address).close()
    assert (home / ".cache/edgeprune" / name).read_bytes() == content


DAMAGED = ["[127.0.0.1]:PORT ssh-ed25519 AAAA!!!", "nonsense", "\udcff\udcfe", "@revoked", "@cert-authority *.lan ssh-ed25519 AAAA", "# "]


@pytest.mark.parametrize("line", DAMAGED)
def test_a_damaged_line_of_known_hosts_does_not_hide_the_good_ones(sshd: SshServer, client_home: Path, line: str) -> None:
    damaged = line.replace("PORT", str(sshd.port)).encode("utf-8", "surrogateescape")
    (client_home / ".ssh/known_hosts").write_bytes(damaged + b"\n" + sshd.host_key.encode())
    with connect(sshd.address) as session:
        assert session.run(["echo", "in"]).stdout == b"in\n"


def test_a_revoked_host_key_is_refused(sshd: SshServer, client_home: Path) -> None:
    (client_home / ".ssh/known_hosts").write_text("@revoked " + sshd.host_key)
    with pytest.raises(HostKeyError, match="is revoked"):
        connect(sshd.address, retries=0).close()


def test_a_home_that_cannot_be_written_is_named(sshd: SshServer) -> None:
    if os.getuid() != 0:
        pytest.skip("only root makes a folder of another user")
    closed = sshd.home / ".cache"
    aside = sshd.home / ".cache.aside"
    if closed.exists():
        closed.rename(aside)
    closed.mkdir(mode=0o555)
    try:
        with pytest.raises(DeviceError, match=r"\.cache/edgeprune.*denied"):
            open_device(sshd.address, retries=0)
    finally:
        closed.rmdir()
        if aside.exists():
            aside.rename(closed)


def test_a_lock_that_is_removed_while_somebody_waits_for_it_still_locks(tmp_path: Path) -> None:
    """As a teardown does: who waited must not hold a file that nobody else sees."""
    path = tmp_path / "lock"
    with open(path, "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = DeviceLock(str(path))
        path.unlink()
    waiting.acquire("the one who waited", 0, lambda *_, **__: None)
    with pytest.raises(RunnerError, match="in use by the one who waited"):
        DeviceLock(str(path)).acquire("another", 0, lambda *_, **__: None)


# the runner by itself: it must not outlive its host


def _runner(tmp_path: Path, request: dict) -> subprocess.Popen[bytes]:
    (tmp_path / "runner.pyz").write_bytes(build_runner()[1])
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, str(tmp_path / "runner.pyz")], stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)
    assert process.stdin is not None
    process.stdin.write(json.dumps(request).encode() + b"\n")
    process.stdin.flush()
    return process


def test_a_run_ends_with_its_child_when_its_input_ends(tmp_path: Path, dense_model: Path) -> None:
    model = {"name": "m", "engine": "tflite", "path": str(dense_model), "specs": None}
    process = _runner(tmp_path, {"action": "bench", "hold": True, "models": [model], "options": {"min_time_s": 100, "max_time_s": 100}})
    end = time.monotonic() + 20
    while not (found := children(process.pid)):
        assert time.monotonic() < end
        time.sleep(0.02)
    assert process.stdin is not None
    process.stdin.close()
    process.wait(10)
    while any(Path(f"/proc/{pid}").exists() for pid in found):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_every_line_is_of_the_protocol_and_noise_goes_to_the_log(tmp_path: Path, dense_model: Path) -> None:
    model = {"name": "m", "engine": "tflite", "path": str(dense_model), "specs": None}
    options = {"min_time_s": 0.05, "max_time_s": 0.1, "warmup_s": 0.05, "energy": False}
    process = _runner(tmp_path, {"action": "bench", "models": [model, model | {"name": "n", "engine": "npu"}], "options": options})
    out, log = process.communicate(timeout=30)
    lines = [json.loads(line) for line in out.splitlines()]
    assert {line["protocol"] for line in lines} == {1}
    assert [line["event"] for line in lines] == ["start", "measuring", "measured", "measuring", "result"]
    good, bad = lines[-1]["result"]["models"]
    assert good["median_ns"] > 0
    assert "known: executorch, native" in bad["error"]["message"]
    assert b"XNNPACK" in log


def test_silence_and_the_end_of_input_are_told_apart() -> None:
    reading, writing = os.pipe()
    try:
        assert wait_for_silence(reading, 0.05).startswith("silence")
        threading.Timer(0.05, os.close, (writing,)).start()
        assert wait_for_silence(reading, 5) == ENDED
    finally:
        os.close(reading)
