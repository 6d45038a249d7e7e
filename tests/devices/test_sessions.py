"""The session contract against this machine and against a real OpenSSH server."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeprune.devices import Session, connect
from edgeprune.testing.sessions import SessionContract
from edgeprune.testing.sshd import SshServer


class TestLocal(SessionContract):
    @pytest.fixture
    def session(self) -> Iterator[Session]:
        with connect("local:") as session:
            yield session

    @pytest.fixture
    def folder(self, tmp_path: Path) -> str:
        made = tmp_path / "folder"
        made.mkdir()
        return str(made)


class TestSsh(SessionContract):
    @pytest.fixture
    def session(self, sshd: SshServer) -> Iterator[Session]:
        with connect("ssh://box") as session:
            yield session

    @pytest.fixture
    def folder(self, session: Session, sshd: SshServer) -> str:
        made = f"{sshd.home}/{uuid.uuid4().hex}"
        session.mkdir(made)
        return made
