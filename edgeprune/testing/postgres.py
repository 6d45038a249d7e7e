"""A throw-away PostgreSQL server on loopback, for testing against the real thing; as root, it runs as the user ``postgres``."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any


def find_postgres() -> Path | None:
    """The folder of the newest installed server's programs, or None."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    program = found[-1] if found else shutil.which("initdb")
    return Path(program).parent if program else None


class PostgresServer:
    """A running server; a context manager.  ``url``: its address, with the password of its only user.

    ``programs``: the folder of ``initdb`` and ``pg_ctl``.  Raises :class:`RuntimeError` when it does not start.
    """

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self._base = Path(tempfile.mkdtemp(prefix="edgeprune-postgres-"))
        self._ids: dict[str, Any] = {}
        if os.getuid() == 0:
            owner = pwd.getpwnam("postgres")
            self._ids = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
            os.chown(self._base, owner.pw_uid, owner.pw_gid)
        password = secrets.token_hex(8)
        (self._base / "password").write_text(password)
        (self._base / "password").chmod(0o644)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        try:
            self._run("initdb", "-U", "tester", "-A", "scram-sha-256", f"--pwfile={self._base}/password", "-E", "UTF8", "--no-sync")
            options = f"-h 127.0.0.1 -p {port} -k {self._base} -c fsync=off"
            self._run("pg_ctl", "-w", "-t", "30", "-l", str(self._base / "log"), "-o", options, "start")
        except RuntimeError:
            self.close()
            raise
        self.url = f"postgresql+psycopg://tester:{password}@127.0.0.1:{port}/postgres"

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), "-D", str(self._base / "data"), *arguments]
        with open(os.devnull, "wb") as nowhere:  # the server keeps its outputs: a pipe would never end
            done = subprocess.run(command, stdout=nowhere, stderr=nowhere, cwd="/", timeout=120, check=False, **self._ids)
        if done.returncode != 0:
            log = self._base / "log"
            raise RuntimeError(f"{program} failed: {log.read_text(errors='replace') if log.exists() else command}")

    def close(self) -> None:
        """Stop it and remove all it left."""
        if (self._base / "data/postmaster.pid").exists():
            self._run("pg_ctl", "-m", "immediate", "-w", "stop")
        shutil.rmtree(self._base, ignore_errors=True)

    def __enter__(self) -> PostgresServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
