"""A running command on a device, and what it has said when it has ended."""

from __future__ import annotations

import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from edgeprune.devices.framing import Kept, LineReader, Opening
from edgeprune.errors import DeviceError, DeviceTimeoutError, LoginShellError

_START_LIMIT_S = 60.0
_LINGER_S, _TRICKLE_BYTES = 3.0, 4096  # an output that gives less in this time after its command's end is another's
_MOST_ERRORS = 1 << 18
_AHEAD = 64  # pieces of up to 64 kB that are read before somebody takes them


@dataclass(frozen=True)
class Completed:
    """A command that ended.  ``code`` is negative when a signal ended it."""

    code: int
    stdout: bytes
    stderr: bytes


class Process(ABC):
    """A running command.  Two threads read its outputs; a third waits for its end.

    ``mark``: behind a login shell, the opening of its outputs (:mod:`edgeprune.devices.framing`); None where there is no such shell.
    """

    by_hand = "ssh HOST"
    """What a user types to run a command behind the same login shell."""

    def __init__(self, what: str, address: str, mark: str | None = None) -> None:
        self.what, self.address = what, address
        self.ended = threading.Event()
        self._queue: queue.Queue[tuple[str, bytes]] = queue.Queue(_AHEAD)
        self._openings = {stream: Opening(mark, stream) for stream in ("stdout", "stderr")} if mark else {}
        self._begun, self._drained, self._dropped = threading.Event(), threading.Event(), threading.Event()
        self._received = 0
        self._end: int | DeviceError = 0

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Send to its standard input; data for a command that has ended is dropped."""

    @abstractmethod
    def close_input(self) -> None:
        """End its standard input."""

    def kill(self) -> None:
        """End it now, where that is possible; otherwise cut its standard input and outputs."""
        self._dropped.set()
        self._cut()
        self.ended.wait(10)

    @abstractmethod
    def _cut(self) -> None:
        """What :meth:`kill` does for this kind of process; it does not wait."""

    @abstractmethod
    def _read(self, stream: str) -> bytes:
        """Block for more of ``stdout`` or ``stderr``; empty at its end."""

    @abstractmethod
    def _exit(self) -> None:
        """Block until it ends, or the connection to it does."""

    @abstractmethod
    def _code(self) -> int:
        """Its exit code, once it has ended.  Raises :class:`DeviceError` when that cannot be known."""

    def _begin(self) -> None:
        """Start reading.  Returns when the command itself runs; :class:`LoginShellError` when the login shell does not come to it."""
        readers = [threading.Thread(target=self._pump, args=(stream,), daemon=True) for stream in ("stdout", "stderr")]
        for thread in readers:
            thread.start()
        threading.Thread(target=self._watch, args=(readers,), daemon=True).start()
        if self._openings:
            self._await_opening()

    def _await_opening(self) -> None:
        opening = self._openings["stdout"]
        self._begun.wait(_START_LIMIT_S)
        if opening.found:
            return
        hangs = not self.ended.is_set()
        if hangs:
            self.kill()
        elif isinstance(self._end, DeviceError):
            raise self._end
        words = b" ".join(each.said for each in self._openings.values()).decode("utf-8", "replace").split()
        said = f"it said {' '.join(words)!r}" if words else "it said nothing"
        if hangs:
            raise LoginShellError(
                f"the login shell of {self.address} ran no command within {_START_LIMIT_S:.0f} s; {said}",
                remedy="A start-up file there (~/.bashrc, ~/.zshenv, ~/.cshrc, config.fish) hangs or waits for input: let it end at once "
                f"where the shell is not interactive.  `{self.by_hand} true` must come back by itself.",
            )
        raise LoginShellError(
            f"the login shell of {self.address} ended with exit code {self._end} before it ran a command; {said}",
            remedy="Look for an exit or exec in its start-up files (~/.bashrc, ~/.zshenv, ~/.cshrc, config.fish), and at the account's "
            f"shell (getent passwd): nologin and restricted shells do not work.  `{self.by_hand} uname` must print the system's name.",
        )

    def _pump(self, stream: str) -> None:
        opening = self._openings.get(stream)
        try:
            while (data := self._read(stream)) and not self._drained.is_set():
                self._received += len(data)
                if opening is not None:
                    data = opening.feed(data)
                    if opening.found and stream == "stdout":
                        self._begun.set()
                if data:
                    self._pass_on(stream, data)
        except OSError:
            pass  # a dropped connection; _code says which
        if opening is not None:
            opening.end()

    def _pass_on(self, stream: str, data: bytes) -> None:
        """Queue a piece of output; what a killed command still says is dropped."""
        while not self._dropped.is_set():
            try:
                return self._queue.put((stream, data), timeout=0.2)
            except queue.Full:
                continue

    def _watch(self, readers: list[threading.Thread]) -> None:
        self._exit()
        self._drain(readers)
        try:
            self._end = self._code()
        except DeviceError as error:
            self._end = error
        self.ended.set()
        self._begun.set()
        self._pass_on("end", b"")

    def _drain(self, readers: list[threading.Thread]) -> None:
        """Wait for the rest of its outputs, but not for what others hold open: a start-up file may have started something beside it."""
        before, since = self._received, time.monotonic()
        while any(thread.is_alive() for thread in readers):
            for thread in readers:
                thread.join(0.05)
            if self._queue.full():
                since = time.monotonic()
            elif time.monotonic() - since > _LINGER_S:
                if self._received - before < _TRICKLE_BYTES:
                    break
                before, since = self._received, time.monotonic()
        self._drained.set()

    def follow(
        self,
        timeout_s: float | None,
        on_line: Callable[[str], None] | None = None,
        heartbeat_s: float | None = None,
        mark: str | None = None,
    ) -> Completed:
        """Collect its outputs until it ends; with ``on_line`` its standard output is not kept, and each full line of it is passed on.

        With a ``mark`` only lines that hold it are, from behind it on.  Every ``heartbeat_s`` a newline is written to its standard input.
        Raises :class:`DeviceTimeoutError` after ``timeout_s``, without the time spent in ``on_line``, :class:`ConnectionLostError` when the
        connection broke, and :class:`DeviceError` when it says more than can be wanted.
        """
        kept = {"stdout": Kept(self.address), "stderr": Kept(self.address, _MOST_ERRORS, ends=True)}
        reader = LineReader(self.address, mark) if on_line else None
        begin = beat = time.monotonic()
        while True:
            now = time.monotonic()
            if timeout_s is not None and now - begin > timeout_s:
                raise DeviceTimeoutError(f"{self.what} on {self.address.rstrip(':')} took longer than {timeout_s:.0f} s")
            if heartbeat_s is not None and now - beat >= heartbeat_s:
                self.write(b"\n")
                beat = now
            try:
                stream, data = self._queue.get(timeout=min(heartbeat_s or 1.0, timeout_s or 1.0, 1.0))
            except queue.Empty:
                continue
            if stream == "end":
                break
            if stream == "stdout" and reader and on_line:
                called = time.monotonic()
                for text in reader.feed(data):
                    on_line(text)
                begin += time.monotonic() - called
            else:
                kept[stream].feed(data)
        if isinstance(self._end, DeviceError):
            raise self._end
        return Completed(self._end, kept["stdout"].content, kept["stderr"].content)
