"""What every way of reaching a device offers: run a command, move files.  One implementation each in ``local.py`` and ``ssh.py``."""

from __future__ import annotations

import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from edgeprune.errors import DeviceError, DeviceTimeoutError

Progress = Callable[[int, int], None]
"""Called with (bytes sent, bytes in total)."""


@dataclass(frozen=True)
class Completed:
    """A command that ended.  ``code`` is negative when a signal ended it."""

    code: int
    stdout: bytes
    stderr: bytes


class Process(ABC):
    """A running command.  Two threads read its outputs; a third waits for its end."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.ended = threading.Event()
        self._queue: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self._end: int | DeviceError = 0

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Send to its standard input; data for a command that has ended is dropped."""

    @abstractmethod
    def close_input(self) -> None:
        """End its standard input."""

    @abstractmethod
    def kill(self) -> None:
        """End it now, where that is possible; otherwise cut its standard input and outputs."""

    @abstractmethod
    def _read(self, stream: str) -> bytes:
        """Block for more of ``stdout`` or ``stderr``; empty at its end."""

    @abstractmethod
    def _wait(self) -> int:
        """Block until it ends; its exit code.  Raises :class:`DeviceError` when that cannot be known."""

    def _begin(self) -> None:
        readers = [threading.Thread(target=self._pump, args=(stream,), daemon=True) for stream in ("stdout", "stderr")]
        for thread in readers:
            thread.start()
        threading.Thread(target=self._watch, args=(readers,), daemon=True).start()

    def _pump(self, stream: str) -> None:
        try:
            while data := self._read(stream):
                self._queue.put((stream, data))
        except OSError:
            pass  # a dropped connection; _wait tells

    def _watch(self, readers: list[threading.Thread]) -> None:
        for thread in readers:
            thread.join()
        try:
            self._end = self._wait()
        except DeviceError as error:
            self._end = error
        self.ended.set()
        self._queue.put(("end", b""))

    def follow(self, timeout_s: float | None, on_line: Callable[[str], None] | None = None, heartbeat_s: float | None = None) -> Completed:
        """Collect its outputs until it ends, calling ``on_line`` for each full line of standard output.

        Every ``heartbeat_s`` a newline is written to its standard input.  Raises :class:`DeviceTimeoutError` after ``timeout_s``, without
        the time spent in ``on_line``, and :class:`ConnectionLostError` when the connection broke.
        """
        outputs: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
        line = b""
        begin = beat = time.monotonic()
        while True:
            now = time.monotonic()
            if timeout_s is not None and now - begin > timeout_s:
                raise DeviceTimeoutError(f"{self.what} took longer than {timeout_s:.0f} s")
            if heartbeat_s is not None and now - beat >= heartbeat_s:
                self.write(b"\n")
                beat = now
            try:
                stream, data = self._queue.get(timeout=min(heartbeat_s or 1.0, timeout_s or 1.0, 1.0))
            except queue.Empty:
                continue
            if stream == "end":
                break
            outputs[stream].append(data)
            if stream == "stdout" and on_line:
                *lines, line = (line + data).split(b"\n")
                called = time.monotonic()
                for text in lines:
                    on_line(text.decode("utf-8", "replace"))
                begin += time.monotonic() - called
        if isinstance(self._end, DeviceError):
            raise self._end
        return Completed(self._end, b"".join(outputs["stdout"]), b"".join(outputs["stderr"]))


class Session(ABC):
    """An open way to a device.  A context manager; paths are POSIX paths on the device."""

    address: str

    @abstractmethod
    def start(self, argv: Sequence[str]) -> Process:
        """Start a command."""

    def run(
        self,
        argv: Sequence[str],
        input: bytes = b"",
        timeout_s: float | None = 60.0,
        on_line: Callable[[str], None] | None = None,
        heartbeat_s: float | None = None,
    ) -> Completed:
        """Run a command to its end, whatever its exit code.

        With ``heartbeat_s`` its standard input stays open after ``input`` and gets a newline that often, so that it can tell when this side
        is gone.  Raises :class:`DeviceTimeoutError` and :class:`ConnectionLostError`; the command is then ended as far as possible.
        """
        process = self.start(argv)
        try:
            process.write(input)
            if heartbeat_s is None:
                process.close_input()
            return process.follow(timeout_s, on_line, heartbeat_s)
        finally:
            process.kill()

    @abstractmethod
    def put(self, source: Path | bytes, remote: str, progress: Progress | None = None, parts: str | None = None) -> bool:
        """Write a file: under a temporary name, checked by size and SHA-256 on the device, synced, then renamed.

        Whether anything was sent: what is there with the same content is not sent again.  Over a link, an upload that it cut leaves a
        ``.part`` file in the folder ``parts`` (that of ``remote`` unless given; of the same disk), which the next upload of this content
        continues.  Raises :class:`DeviceFullError` when the device's disk is full or read-only, :class:`DeviceError` when what arrived is
        damaged, :class:`TransientError`.
        """

    @abstractmethod
    def sha256(self, remote: str) -> str | None:
        """Hexadecimal SHA-256 of a file, as read by the device, or None when there is none."""

    @abstractmethod
    def get(self, remote: str) -> bytes:
        """A file's content.  Raises :class:`DeviceError` when it is missing."""

    @abstractmethod
    def remove(self, remote: str) -> None:
        """Remove a file; one that is missing is no error."""

    @abstractmethod
    def exists(self, remote: str) -> bool:
        """Whether there is a file or folder of that name."""

    @abstractmethod
    def mkdir(self, remote: str) -> None:
        """Make a folder and its parents, private to the user; one that exists is no error."""

    @abstractmethod
    def close(self) -> None:
        """Close it; a second time is no error."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
