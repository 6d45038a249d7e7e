"""Delay, loss and black holes between this machine and a device, on a real network link between two namespaces."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from board.link import Link

from edgeprune.bench import Artifact, BenchOptions, open_device
from edgeprune.devices import connect
from edgeprune.errors import ConnectionLostError, DeviceTimeoutError, EdgepruneError, TransientError, UnreachableError
from edgeprune.testing.sshd import SshServer

QUICK = BenchOptions(threads=1, min_time_s=0.05, max_time_s=0.1, warmup_s=0.05, energy=False)
LONG = BenchOptions(threads=1, min_time_s=200, max_time_s=300, energy=False)


@pytest.fixture
def far(link: Link, client_home: Path) -> Iterator[SshServer]:
    """A server behind the link."""
    with link.server() as server:
        server.make_python()
        (client_home / ".ssh/known_hosts").write_text(server.host_key)
        (client_home / ".ssh/config").write_text(f"Host *\n  IdentityFile {server.key}\n")
        yield server
        link.set()  # whatever it was: the server must be able to end


def caught(work: Callable[[], object], into: list[EdgepruneError]) -> threading.Thread:
    """Do it in a thread, and keep what it raises."""

    def body() -> None:
        try:
            work()
        except EdgepruneError as error:
            into.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    return thread


def test_a_slow_and_lossy_link_delivers_all(link: Link, far: SshServer, dense_model: Path) -> None:
    link.set(delay_ms=20, loss_percent=1)
    data = os.urandom(1 << 20)
    with connect(far.address) as session:
        session.put(data, f"{far.home}/file")
        assert session.get(f"{far.home}/file") == data
    assert (far.home / "file").read_bytes() == data
    with open_device(far.address) as device:
        assert device.measure([Artifact(dense_model)], QUICK)[0].latency_ms > 0
    assert not list(far.home.glob(".cache/edgeprune/session-*"))


def test_a_device_behind_a_black_hole_cannot_be_reached(link: Link, far: SshServer) -> None:
    link.cut()
    with pytest.raises(UnreachableError, match="no answer"):
        connect(far.address, timeout_s=2, retries=0)


def test_a_black_hole_ends_uploads_and_runs_on_both_sides(link: Link, far: SshServer, dense_model: Path) -> None:
    """The host gives up after 20 s of silence, and the runner on the device after 30 s."""
    failures: list[EdgepruneError] = []
    link.set(delay_ms=5)
    device = open_device(far.address, retries=0)
    session = connect(far.address)
    data = os.urandom(1 << 20) * 200
    sent: list[int] = []
    running = caught(lambda: device.measure([Artifact(dense_model)], LONG), failures)
    sending = caught(lambda: session.put(data, f"{far.home}/file", lambda done, _: sent.append(done)), failures)
    end = time.monotonic() + 30
    while not (sent and list(far.home.glob(".cache/edgeprune/session-*/*.tflite"))):
        assert time.monotonic() < end
        time.sleep(0.05)
    link.cut()
    for thread in (running, sending):
        thread.join(60)
        assert not thread.is_alive(), "it hangs"
    assert {type(error) for error in failures} <= {ConnectionLostError, DeviceTimeoutError}
    assert len(failures) == 2
    assert all(isinstance(error, TransientError) for error in failures)
    assert not (far.home / "file").exists()
    end = time.monotonic() + 45
    while list(far.home.glob(".cache/edgeprune/session-*")):
        assert time.monotonic() < end, "the runner outlives its host"
        time.sleep(0.2)
    link.set()
    with open_device(far.address, lock_timeout_s=5) as again:
        assert again.measure([Artifact(dense_model)], QUICK)[0].latency_ms > 0
    session.close()
