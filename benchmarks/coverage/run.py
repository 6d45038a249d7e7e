"""Children of the coverage benchmark under a time and a memory limit, and the file their rows are kept in."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
POLL_S = 0.05
RUNNING: set[subprocess.Popen[bytes]] = set()
"""The children that run now."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Limits:
    """What a child may use: seconds of wall time, bytes of resident memory."""

    time_s: float
    memory_bytes: int


def run_child(kind: str, name: str, limits: Limits) -> Row:
    """The row that ``benchmarks.coverage.child`` prints; a child that dies or passes a limit gives a row with ``error``."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "KERAS_BACKEND": "torch", "PYTHONWARNINGS": "ignore"}
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        command = [sys.executable, "-m", "benchmarks.coverage.child", kind, name]
        child = subprocess.Popen(command, stdout=out, stderr=err, env=environment, cwd=ROOT, start_new_session=True)
        RUNNING.add(child)
        try:
            reason, peak = _watch(child, limits, started)
        finally:
            _stop(child)
            RUNNING.discard(child)
        out.seek(0)
        err.seek(0)
        row = {"error": reason} if reason else _row(out.read(), err.read(), child.returncode)
    seconds = time.monotonic() - started
    common = {"kind": kind, "model": name, "seconds": seconds, "peak_bytes": peak, "version": code_version(kind), "date": _today()}
    return {"error": None} | row | common


def stop_children() -> None:
    """End all children that run, with all that they started."""
    for child in list(RUNNING):
        _stop(child)


def _stop(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _watch(child: subprocess.Popen[bytes], limits: Limits, started: float) -> tuple[str | None, int]:
    """Wait for the child: (why it had to be stopped, or None; the most memory it held)."""
    peak = 0
    while child.poll() is None:
        peak = max(peak, _resident(child.pid))
        if peak > limits.memory_bytes:
            return f"memory: more than {limits.memory_bytes / 2**30:g} GiB", peak
        if time.monotonic() - started > limits.time_s:
            return f"timeout: more than {limits.time_s:g} s", peak
        time.sleep(POLL_S)
    return None, peak


def _resident(process: int) -> int:
    """The child's own high-water mark, or what it holds now where that is more (the mark can be reset)."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return max((int(line.split()[1]) * 1024 for line in lines if line.startswith(("VmHWM:", "VmRSS:"))), default=0)


def _row(out: str, err: str, code: int) -> Row:
    try:
        row: Row = json.loads(out.strip().splitlines()[-1])
        return row
    except (IndexError, ValueError):
        died = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        last = next((line for line in reversed(err.splitlines()) if line.strip()), "")
        return {"error": f"died: {died} {last}".strip()}


def _today() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d")


def code_version(kind: str) -> str:
    """What a row depends on: a hash of the graph and surgery code, or the other tool's release, with that of torch."""
    if kind == "torch-pruning":
        from benchmarks.coverage.peers import RELEASE

        return f"torch-pruning {RELEASE}, torch {version('torch')}"
    digest = hashlib.sha256()
    folders = ["graph", "surgery", *(["export"] if kind == "export" else [])]
    for path in sorted(path for folder in folders for path in (ROOT / "edgeprune" / folder).rglob("*.py")):
        digest.update(path.read_bytes())
    return f"{digest.hexdigest()[:12]}, torch {version('torch')}"


class Results:
    """Rows in a file of JSON lines; the last one of a model and kind counts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[tuple[str, str], Row] = {(row["kind"], row["model"]): row for row in self._read()}

    def _read(self) -> Iterator[Row]:
        if self.path.is_file():
            for line in self.path.read_text().splitlines():
                try:
                    yield json.loads(line)
                except ValueError:  # cut short by a kill
                    continue

    def get(self, kind: str, name: str) -> Row | None:
        """The last row of a model."""
        return self.rows.get((kind, name))

    def current(self, kind: str, name: str) -> bool:
        """Whether a model's last row is of the present code."""
        row = self.get(kind, name)
        return row is not None and row["version"] == code_version(kind)

    def settled(self, kind: str, name: str) -> bool:
        """Whether a model has passed, or the other tool has run."""
        row = self.get(kind, name)
        return row is not None and (kind == "torch-pruning" or not row["error"])

    def add(self, row: Row) -> None:
        """Keep a row, at once."""
        self.rows[row["kind"], row["model"]] = row
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
