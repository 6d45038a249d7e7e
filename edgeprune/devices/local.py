"""This machine as a device."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from edgeprune.budget import format_quantity
from edgeprune.devices.process import Process
from edgeprune.devices.session import Progress, Session
from edgeprune.errors import DeviceError, DeviceFullError
from edgeprune.files import replacing
from edgeprune.host import end_tree

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class LocalProcess(Process):
    """A subprocess at the head of its own process group."""

    def __init__(self, argv: Sequence[str], what: str = "", address: str = "local:", mark: str | None = None) -> None:
        """``what``, ``address``, ``mark``: of a command that this one runs elsewhere."""
        super().__init__(what or argv[0], address, mark)
        pipe = subprocess.PIPE
        try:
            self._popen = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0, start_new_session=True)
        except OSError as error:
            raise DeviceError(f"cannot run {argv[0]} on this machine: {error.strerror}") from error
        self._begin()

    def write(self, data: bytes) -> None:
        assert self._popen.stdin is not None
        view = memoryview(data)
        try:
            while view:
                view = view[self._popen.stdin.write(view) or 0 :]
        except (OSError, ValueError):
            pass

    def close_input(self) -> None:
        assert self._popen.stdin is not None
        self._popen.stdin.close()

    def _cut(self) -> None:
        self.close_input()
        if self._popen.poll() is None:
            end_tree(self._popen.pid, group=True)

    def _read(self, stream: str) -> bytes:
        file = self._popen.stdout if stream == "stdout" else self._popen.stderr
        assert file is not None
        data = os.read(file.fileno(), 1 << 16)
        if not data:
            file.close()
        return data

    def _exit(self) -> None:
        self._popen.wait()

    def _code(self) -> int:
        return self._popen.wait()


@contextmanager
def _errors(remote: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = f"{remote}: {error.strerror}"
        if error.errno in _NO_ROOM:
            folder = os.path.dirname(remote)
            free = shutil.disk_usage(folder).free if os.path.isdir(folder) else 0
            raise DeviceFullError(
                f"cannot write {reason} (free: {format_quantity('size', free)})", remedy="Free some space there."
            ) from error
        raise DeviceError(f"cannot use {reason}") from error


class LocalSession(Session):
    """Commands and files of this machine."""

    def __init__(self) -> None:
        self.address = "local:"

    def start(self, argv: Sequence[str]) -> Process:
        return LocalProcess(argv)

    def put(self, source: Path | bytes, remote: str, progress: Progress | None = None, parts: str | None = None) -> bool:
        data = source if isinstance(source, bytes) else source.read_bytes()
        wanted = hashlib.sha256(data).hexdigest()
        if self.sha256(remote) == wanted:
            return False
        folder, name = os.path.split(remote)
        temporary = os.path.join(parts or folder, f"{name}.{uuid.uuid4().hex[:8]}.part")  # of this call alone: others may send it too
        with _errors(remote), replacing(Path(remote), Path(temporary)):
            Path(temporary).write_bytes(data)
            if self.sha256(temporary) != wanted:
                raise DeviceError(f"{remote} arrived damaged on this machine", remedy="Check its disk.")
        if progress:
            progress(len(data), len(data))
        return True

    def sha256(self, remote: str) -> str | None:
        try:
            return hashlib.sha256(Path(remote).read_bytes()).hexdigest()
        except OSError:
            return None

    def get(self, remote: str) -> bytes:
        with _errors(remote):
            return Path(remote).read_bytes()

    def remove(self, remote: str) -> None:
        with _errors(remote):
            Path(remote).unlink(missing_ok=True)

    def exists(self, remote: str) -> bool:
        return os.path.lexists(remote)

    def mkdir(self, remote: str) -> None:
        with _errors(remote):
            os.makedirs(remote, mode=0o700, exist_ok=True)

    def close(self) -> None:
        """Nothing is held."""
