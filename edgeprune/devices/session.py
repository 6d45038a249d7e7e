"""What every way of reaching a device offers: run a command, move files.  Implementations: ``local.py``, ``ssh.py``, ``adb.py``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from edgeprune.devices.process import Completed, Process

Progress = Callable[[int, int], None]
"""Called with (bytes sent, bytes in total)."""


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
        mark: str | None = None,
    ) -> Completed:
        """Run a command to its end, whatever its exit code.  ``on_line``, ``mark``: see :meth:`Process.follow`.

        With ``heartbeat_s`` its standard input stays open after ``input`` and gets a newline that often, so that it can tell when this side
        is gone.  Raises :class:`DeviceTimeoutError`, :class:`ConnectionLostError` and :class:`LoginShellError`; the command is then ended
        as far as possible.
        """
        process = self.start(argv)
        try:
            process.write(input)
            if heartbeat_s is None:
                process.close_input()
            return process.follow(timeout_s, on_line, heartbeat_s, mark)
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
        """Remove a file; a missing one is not an error."""

    @abstractmethod
    def exists(self, remote: str) -> bool:
        """Whether there is a file or folder of that name."""

    @abstractmethod
    def mkdir(self, remote: str) -> None:
        """Make a folder and its parents, private to the user; an existing one is not an error."""

    @abstractmethod
    def close(self) -> None:
        """Close it; a second call is not an error."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
