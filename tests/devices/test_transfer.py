"""Uploads: continued where a cut left them, checked, sent once."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgeprune.bench import Artifact, BenchOptions, open_device
from edgeprune.devices import connect
from edgeprune.errors import ConnectionLostError
from edgeprune.testing.models import dense_tflite
from edgeprune.testing.sshd import SshServer, find_sshd

pytestmark = pytest.mark.device
MB = 1 << 20


@pytest.fixture
def server(client_home: Path) -> Iterator[SshServer]:
    """A server whose connections the test may cut."""
    if find_sshd() is None:
        pytest.skip("sshd is not installed")
    with SshServer() as server:
        (client_home / ".ssh/known_hosts").write_text(server.host_key)
        (client_home / ".ssh/config").write_text(f"Host *\n  IdentityFile {server.key}\n")
        yield server


class Progress:
    """Notes what is told, and calls ``at`` once when as many bytes are sent."""

    def __init__(self, at_bytes: int = 0, at=lambda: None) -> None:
        self.seen: list[int] = []
        self._at_bytes, self._at = at_bytes, at

    def __call__(self, sent: int, total: int) -> None:
        assert not self.seen or sent > self.seen[-1]
        self.seen.append(sent)
        if self._at_bytes and sent >= self._at_bytes:
            self._at_bytes = 0
            self._at()


def parts(folder: Path) -> list[Path]:
    return list(folder.glob("*.part"))


def cut(server: SshServer, data: bytes, remote: str, at_bytes: int) -> None:
    """Leave an upload that was cut."""
    with connect(server.address) as session, pytest.raises(ConnectionLostError):
        session.put(data, remote, Progress(at_bytes, server.drop_connections))


def test_an_upload_that_was_cut_is_continued(server: SshServer) -> None:
    data = os.urandom(24 * MB)
    cut(server, data, f"{server.home}/file", 12 * MB)
    (part,) = parts(server.home)
    assert data.startswith(part.read_bytes())
    kept = part.stat().st_size
    assert kept > 0
    progress = Progress()
    with connect(server.address) as session:
        assert session.put(data, f"{server.home}/file", progress)
    assert progress.seen[0] == min(kept + MB, len(data))
    assert progress.seen[-1] == len(data)
    assert (server.home / "file").read_bytes() == data
    assert parts(server.home) == []


@pytest.mark.parametrize("damage", ["changed", "longer", "empty"])
def test_a_part_that_is_not_the_beginning_of_the_file_is_not_used(server: SshServer, damage: str) -> None:
    data = os.urandom(2 * MB)
    part = server.home / f"{hashlib.sha256(data).hexdigest()}.999999.part"
    part.write_bytes({"changed": b"x" + data[1:MB], "longer": data + b"x", "empty": b""}[damage])
    server.own(part)
    progress = Progress()
    with connect(server.address) as session:
        session.put(data, f"{server.home}/file", progress)
    assert progress.seen == [MB, 2 * MB]
    assert (server.home / "file").read_bytes() == data
    assert parts(server.home) == []


def test_a_part_of_other_content_is_left_alone(server: SshServer) -> None:
    cut(server, os.urandom(8 * MB), f"{server.home}/file", 4 * MB)
    before = parts(server.home)
    with connect(server.address) as session:
        session.put(b"another", f"{server.home}/file")
    assert parts(server.home) == before
    assert (server.home / "file").read_bytes() == b"another"


def test_an_upload_whose_link_died_unnoticed_is_taken_over(server: SshServer) -> None:
    data = os.urandom(24 * MB)
    stopped: list[int] = []

    def freeze() -> None:
        stopped.extend(server.connections())
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        session.close()

    with connect(server.address) as session, pytest.raises(ConnectionLostError):
        session.put(data, f"{server.home}/file", Progress(12 * MB, freeze))
    try:
        (part,) = parts(server.home)
        kept = part.stat().st_size
        progress = Progress()
        with connect(server.address) as session:
            session.put(data, f"{server.home}/file", progress)
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGKILL)
    assert progress.seen[0] >= kept + MB
    assert (server.home / "file").read_bytes() == data
    assert parts(server.home) == []


def test_a_model_whose_upload_was_cut_is_continued_and_measured(server: SshServer, tmp_path: Path) -> None:
    server.make_python()
    path = tmp_path / "large.tflite"
    path.write_bytes(dense_tflite(np.ones((2048, 2048), np.float32)))
    total = path.stat().st_size
    sent: list[int] = []

    def event(message: dict) -> None:
        if message["event"] == "upload":
            sent.append(message["sent"])
            if sent == sorted(sent) and sent.count(8 * MB) == 1 and sent[-1] == 8 * MB:
                server.drop_connections()

    quick = BenchOptions(threads=1, min_time_s=0.05, max_time_s=0.1, warmup_s=0.05, energy=False)
    with open_device(server.address, on_event=event) as device:
        assert device.measure([Artifact(path)], quick)[0].file_bytes == total
    again = sent[sent.index(8 * MB) + 1 :]
    assert again[0] > MB, "it started over"
    assert again[-1] == total
    assert parts(server.home / ".cache/edgeprune") == []


def test_a_device_without_a_file_transfer_subsystem(server: SshServer) -> None:
    config = server.base / "config"
    config.write_text(config.read_text().replace("Subsystem sftp internal-sftp", ""))
    server.stop()
    server.start()
    with connect(server.address) as session:
        assert session.put(b"content", f"{server.home}/file")
        assert session.get(f"{server.home}/file") == b"content"
        session.remove(f"{server.home}/file")
        assert not session.exists(f"{server.home}/file")
