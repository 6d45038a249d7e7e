"""What several tests of releases share: a finished run, and a device behind a real SSH server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from release_faults import Box, own_lock
from release_runs import make_run

from edgeprune.testing.sshd import SshServer, find_sshd


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)


@pytest.fixture
def run(tmp_path) -> Path:
    return make_run(tmp_path / "run")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    if find_sshd() is None or os.getuid() != 0:
        pytest.skip("needs sshd, and root to give it a lock of its own")
    with SshServer(enter=own_lock(tmp_path_factory.mktemp("lock"))) as server:
        server.make_python()
        yield server


@pytest.fixture
def box(server: SshServer, client_home: Path, tmp_path: Path) -> Box:
    (client_home / ".ssh/known_hosts").write_text(server.host_key)
    (client_home / ".ssh/config").write_text(f"Host *\n  IdentityFile {server.key}\n")
    tmp_path.chmod(0o755)
    return Box(server, tmp_path)
