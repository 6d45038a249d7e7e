"""A session whose every operation is a command on the device: nothing but a POSIX shell and its usual tools is needed there."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

from edgeprune.devices.process import Completed, Process
from edgeprune.devices.session import Progress, Session
from edgeprune.devices.upload import Upload, write_error
from edgeprune.errors import DeviceError


class StreamProcess(Process):
    """A command that much can be sent to."""

    @abstractmethod
    def send(self, data: memoryview, progress: Callable[[int], None] | None = None) -> None:
        """Stream to its standard input, telling every megabyte how much is sent.

        Returns early when it has ended, or the connection has: its outputs and its end say why.  Raises :class:`DeviceTimeoutError`.
        """


class CommandSession(Session):
    """What remains is :meth:`start` and :meth:`close`."""

    @abstractmethod
    def start(self, argv: Sequence[str]) -> StreamProcess:
        """Start a command."""

    def put(self, source: Path | bytes, remote: str, progress: Progress | None = None, parts: str | None = None) -> bool:
        upload = Upload(source, remote, self.address, parts)
        process = self.start(upload.argv)
        try:
            return upload.run(process, process.send, progress)
        finally:
            process.kill()

    def sha256(self, remote: str) -> str | None:
        done = self.run(["sha256sum", remote])
        if done.code == 127:
            raise DeviceError(f"{self.address} has no sha256sum", remedy="Install coreutils (or busybox) there.")
        digest = done.stdout.decode("ascii", "replace").split(" ")[0].lstrip("\\")
        return digest if done.code == 0 else None

    def get(self, remote: str) -> bytes:
        return self._checked(["cat", remote], remote, None).stdout

    def remove(self, remote: str) -> None:
        self._checked(["rm", "-f", remote], remote)

    def exists(self, remote: str) -> bool:
        return self.run(["sh", "-c", '[ -e "$1" ] || [ -h "$1" ]', "edgeprune", remote]).code == 0

    def mkdir(self, remote: str) -> None:
        self._checked(["mkdir", "-p", "-m", "700", remote], remote)

    def _checked(self, argv: Sequence[str], remote: str, timeout_s: float | None = 60.0) -> Completed:
        """Run a command about ``remote``; raise :class:`DeviceError` with its own words when it fails."""
        done = self.run(argv, timeout_s=timeout_s)
        if done.code != 0:
            raise write_error(remote, self.address, done.stderr.decode("utf-8", "replace"))
        return done
