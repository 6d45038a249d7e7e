"""The parent's side of a child process: start it, ask it, and say how it died."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any, Dict, Sequence

from .protocol import RunnerError


def _oom_kills() -> int:
    try:
        with open("/proc/vmstat", encoding="ascii") as file:
            return next((int(line.split()[1]) for line in file if line.startswith("oom_kill ")), 0)
    except OSError:
        return 0


class Child:
    """One child; :meth:`call` raises :class:`RunnerError`: ``crash``, ``memory``, ``timeout``, ``refused``, ``runtime`` or ``engine``."""

    def __init__(self, timeout_s: float = 300.0, cpus: Sequence[int] = ()) -> None:
        """Start it, on the processors ``cpus`` alone where some are given: its threads will inherit that."""
        self.timeout_s = timeout_s
        self._oom = _oom_kills()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, sys.argv[0], "--child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, bufsize=0
        )
        self._pending = b""
        if cpus:
            os.sched_setaffinity(self._process.pid, cpus)

    def wait_until_ready(self) -> None:
        """Until its interpreter is up and waits for commands."""
        self.call("ready")

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def call(self, command: str, **arguments: Any) -> Dict[str, Any]:
        """Ask for one command and wait for its answer."""
        line = json.dumps(dict(arguments, command=command)).encode() + b"\n"
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line)
        except OSError:
            raise self._death() from None
        answer = json.loads(self._line())
        if "error" in answer:
            error = answer["error"]
            raise RunnerError(error["kind"], error["message"])
        return dict(answer)

    def _line(self) -> bytes:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        end = time.monotonic() + self.timeout_s
        parts = [self._pending]
        while b"\n" not in parts[-1]:
            if not select.select([descriptor], [], [], max(0.0, end - time.monotonic()))[0]:
                self.close()
                raise RunnerError("timeout", f"the model did not answer within {self.timeout_s:.0f} s")
            data = os.read(descriptor, 1 << 20)
            if not data:
                raise self._death()
            parts.append(data)
        line, _, self._pending = b"".join(parts).partition(b"\n")
        return line

    def _death(self) -> RunnerError:
        code = self._process.wait()
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - 2000))
        log = self._log.read().decode("utf-8", "replace").strip()
        name = signal.Signals(-code).name if code < 0 else ""
        if name == "SIGKILL" and _oom_kills() > self._oom:
            return RunnerError("memory", "the kernel killed the model's process: out of memory", signal=name, code=code, log=log)
        cause = f"died of signal {name}" if name else f"ended with exit code {code}"
        hint = " (most likely out of memory)" if name == "SIGKILL" else ""
        return RunnerError("crash", f"the model's process {cause}{hint}", signal=name, code=code, log=log)

    def close(self) -> None:
        """End it now, and pass what it wrote to the log on."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        if not self._log.closed:
            self._log.seek(0)
            sys.stderr.write(self._log.read().decode("utf-8", "replace"))
            sys.stderr.flush()
            self._log.close()
