"""The parent's side of the conversion worker: one per Python process, started when first needed or by :func:`warm`."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch
from torch.export import ExportedProgram

from edgeprune.decode import convert
from edgeprune.errors import ConverterError, ExportError
from edgeprune.files import parse_json
from edgeprune.host import end_tree


@dataclass(frozen=True)
class Answer:
    """What the worker says of one job: nothing when it is done, or its error and the operation that has no TFLite form."""

    error: str | None = None
    op: str | None = None


class Converter:
    """Converts exported programs to TFLite in a long-lived child process; started again when it has died; one job at a time.

    ``command``: what starts the child, which follows the protocol of :mod:`edgeprune.export.worker`.
    """

    def __init__(self, command: Sequence[str] = (sys.executable, "-m", "edgeprune.export.worker")) -> None:
        self._command = list(command)
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self._lock = threading.Lock()
        self._starting = threading.Lock()

    @property
    def pid(self) -> int | None:
        """The worker's process id while it runs."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def warm(self) -> None:
        """Start the worker without waiting for it: importing litert_torch takes seconds."""
        with self._starting:
            if self.pid is not None:
                return
            root = str(Path(__file__).resolve().parents[2])
            path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)
            self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop()
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                bufsize=0,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,  # Ctrl-C is the parent's to handle; the closing of stdin ends the worker
            )

    def convert(self, program: ExportedProgram, time_limit_s: float) -> bytes:
        """The program as a TFLite file.

        Raises :class:`ExportError` when an operation has no TFLite form (named), :class:`ConverterError` when the worker dies, or
        ``time_limit_s`` seconds pass.
        """
        with self._lock, tempfile.TemporaryDirectory(prefix="edgeprune-") as folder:
            source, output = Path(folder, "model.pt2"), Path(folder, "model.tflite")
            try:
                torch.export.save(program, source)
            except Exception as error:
                raise ExportError(f"tflite: the captured program cannot be handed to the converter: {error}") from error
            answer = self._ask({"program": str(source), "output": str(output)}, time_limit_s)
            if answer.error is not None:
                _raise(answer.error, answer.op)
            return output.read_bytes()

    def _ask(self, job: dict[str, str], time_limit_s: float) -> Answer:
        deadline = time.monotonic() + time_limit_s
        self.warm()
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(job).encode() + b"\n")
        except BrokenPipeError:
            raise self._died(process) from None
        line = _line(process.stdout, max(0.0, deadline - time.monotonic()))
        if line is None:
            self.stop()
            raise ConverterError(f"tflite: the conversion did not end within {time_limit_s:g} s and was stopped")
        if not line:
            raise self._died(process)
        try:
            return convert(parse_json(line), Answer)
        except ValueError as error:
            raise ConverterError(f"tflite: the converter process gave no answer, but {line[:100]!r}") from error

    def _died(self, process: subprocess.Popen[bytes]) -> ConverterError:
        code = process.wait()
        how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        assert self._log is not None
        self._log.seek(0)
        tail = self._log.read().decode(errors="replace").strip().splitlines()[-1:]
        remedy = "SIGKILL usually means that the machine ran out of memory." if code == -9 else None
        return ConverterError(f"tflite: the converter process ended {how}" + "".join(f": {line}" for line in tail), remedy=remedy)

    def stop(self) -> None:
        """End the worker, if it runs; the next conversion starts another."""
        process, self._process = self._process, None
        if process is not None:
            end_tree(process.pid)
            process.wait()
            for pipe in (process.stdin, process.stdout, self._log):
                if pipe is not None:
                    pipe.close()


def _line(stream: IO[bytes], seconds: float) -> bytes | None:
    """The next line; None where none came in time.  By a thread, since Windows cannot wait for a pipe."""
    found: queue.Queue[bytes] = queue.Queue(1)

    def read() -> None:
        with contextlib.suppress(OSError, ValueError):  # it was closed meanwhile
            found.put(stream.readline())

    threading.Thread(target=read, daemon=True).start()
    try:
        return found.get(timeout=seconds)
    except queue.Empty:
        return None


def _raise(error: str, operation: str | None) -> None:
    if operation is not None:
        why = "" if "Lowering not found" in error else f": {error}"
        remedy = "Replace it in the model, or export torchscript or pt2 instead."
        raise ExportError(f"tflite: the operation {operation} is not supported by this format{why}", remedy=remedy)
    raise ExportError(f"tflite: the converter refused the model: {error}", remedy="The formats torchscript and pt2 may still work.")


CONVERTER = Converter()
atexit.register(CONVERTER.stop)


def warm() -> None:
    """Start the conversion worker in the background, so that the first conversion finds it ready."""
    CONVERTER.warm()
