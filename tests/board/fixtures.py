"""Fixtures of the virtual board."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from board import link as links
from board.machine import Board
from board.root import why_not


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
def own_board(client_home: Path) -> Iterator[Board]:
    """A board that the test may harm."""
    if reason := why_not():
        pytest.skip(reason)
    with Board() as board:
        yield introduce(board, client_home)


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
