"""Fixtures of devices: the virtual board, servers that may be harmed, bad links, small disks."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from board import link as links
from board.machine import Board
from board.root import cache_folder, why_not

from edgeprune.devices.provision import set_up
from edgeprune.testing.sshd import SshServer, find_sshd


@pytest.fixture(scope="session")
def shared_board() -> Iterator[Board]:
    """One board for all tests that do not harm it."""
    if reason := why_not():
        pytest.skip(reason)
    with Board() as board:
        yield board


@pytest.fixture
def board(shared_board: Board, client_home: Path) -> Board:
    """The board, known to a client with a home of its own and reachable by ``ssh://board``."""
    return introduce(shared_board, client_home)


@pytest.fixture
def ready(board: Board, monkeypatch: pytest.MonkeyPatch) -> Iterator[Board]:
    """The board with ai-edge-litert on it: installed offline, from wheels that this machine keeps. Releases go with the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache_folder()))
    manifest = board.home / ".edgeprune/venv/edgeprune.json"
    if not manifest.exists() or "ai_edge_litert" not in manifest.read_text():
        set_up("ssh://board", dry_run=True)
        set_up("ssh://board", offline=True)
    yield board
    shutil.rmtree(board.home / "edgeprune", ignore_errors=True)


@pytest.fixture
def own_sshd(client_home: Path, request: pytest.FixtureRequest) -> Iterator[SshServer]:
    """A server that the test may harm; the parameter, if any, is a command that starts it."""
    if find_sshd() is None:
        pytest.skip("sshd is not installed")
    with SshServer(enter=getattr(request, "param", ())) as server:
        server.make_python()
        (client_home / ".ssh/known_hosts").write_text(server.host_key)
        (client_home / ".ssh/config").write_text(f"Host *\n  IdentityFile {server.key}\n")
        yield server


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=777", "tmpfs", str(folder)], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip("mounting a small disk needs root")
    tmp_path.chmod(0o755)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def link() -> Iterator[links.Link]:
    """A link that the test may make bad."""
    if reason := links.why_not():
        pytest.skip(reason)
    with links.Link() as link:
        yield link


def introduce(board: Board, client_home: Path) -> Board:
    """Let a client know the board's host key, and its own key."""
    ssh = client_home / ".ssh"
    (ssh / "known_hosts").write_text(board.host_key)
    host = f"Host board\n  HostName 127.0.0.1\n  Port {board.port}\n  User {board.user}\n\n"
    (ssh / "config").write_text(f"{host}Host *\n  IdentityFile {board.key}\n")
    return board


@pytest.fixture(scope="module")
def adb_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A server of adb of our own, with a home of its own."""
    if shutil.which("adb") is None:
        pytest.skip("adb is not installed")
    with socket.socket() as free, pytest.MonkeyPatch.context() as patch:
        free.bind(("127.0.0.1", 0))
        patch.setenv("ANDROID_ADB_SERVER_PORT", str(free.getsockname()[1]))
        patch.setenv("HOME", str(tmp_path_factory.mktemp("adb")))
        free.close()
        yield
        subprocess.run(["adb", "kill-server"], capture_output=True, check=False)
