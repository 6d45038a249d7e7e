"""The virtual board itself: what it must be for the tests on it to mean anything."""

from __future__ import annotations

import pytest
from board.machine import MODEL, Board

from edgeprune.bench import probe
from edgeprune.devices import connect
from edgeprune.errors import UnreachableError


def test_it_is_a_64_bit_raspberry_pi_of_its_own(board: Board) -> None:
    info = probe("ssh://board")
    assert (info.arch, info.cpu, info.board, info.hostname) == ("aarch64", "Cortex-A72", MODEL, "board")
    assert info.libc == "glibc 2.36"
    assert info.python.startswith("3.11.")
    assert info.features == ("asimd",)
    assert info.profile == "raspberry-pi-4"


def test_it_sees_only_its_own_processes_and_files(board: Board) -> None:
    with connect("ssh://board") as session:
        assert session.run(["id", "-un"]).stdout == b"pi\n"
        assert session.run(["cat", "/proc/1/comm"]).stdout == b"sshd\n"
        assert not session.exists(str(board.base))
        assert session.run(["sh", "-c", "echo of the board > file"]).code == 0
    assert (board.home / "file").read_text() == "of the board\n"
    (board.home / "file").unlink()


def test_its_power_is_cut_and_its_disk_remains(board: Board) -> None:
    with connect("ssh://board") as session:
        session.put(b"kept", f"/home/{board.user}/file")
    board.stop()
    with pytest.raises(UnreachableError):
        connect("ssh://board", retries=0)
    board.start()
    with connect("ssh://board") as session:
        assert session.get(f"/home/{board.user}/file") == b"kept"
        session.remove(f"/home/{board.user}/file")
