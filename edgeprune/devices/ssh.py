"""A device over SSH: commands by exec, files by SFTP."""

from __future__ import annotations

import errno
import shlex
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import paramiko
from paramiko.sftp import CMD_EXTENDED

from edgeprune.budget import format_quantity
from edgeprune.devices.address import Address
from edgeprune.devices.session import Process, Progress, Session
from edgeprune.devices.sshconnect import close_clients, lost, open_clients
from edgeprune.errors import ConnectionLostError, DeviceError, DeviceFullError, DeviceTimeoutError

_STALL_S = 30.0
_CHUNK = 32 * 1024  # what every SFTP server takes in one request
_DIAGNOSE = """
LC_ALL=C; export LC_ALL
head -c 65536 /dev/zero > "$1.probe"; rm -f "$1.probe"
df -Pk "$(dirname "$1")" | tail -n 1
"""
_FULL = ("No space left on device", "quota exceeded", "Read-only file system")


class SshProcess(Process):
    """A command in a channel of its own.  Over SSH a command that a signal ended has the code -1."""

    def __init__(self, transport: Any, address: str, argv: Sequence[str]) -> None:
        super().__init__(argv[0])
        self._transport, self._address = transport, address
        try:
            self._channel = transport.open_session(timeout=_STALL_S)
            self._channel.settimeout(_STALL_S)
            self._channel.exec_command("exec " + shlex.join(argv))  # no shell in between: what happens to it is seen here
        except (paramiko.SSHException, EOFError, OSError) as error:
            if transport.is_active() and isinstance(error, paramiko.ChannelException):
                raise DeviceError(f"{address} opens no more channels: {error}") from error
            raise lost(address, error) from error
        self._begin()

    def write(self, data: bytes) -> None:
        with suppress(OSError):  # it has ended, or the connection has; the readers tell
            self._channel.sendall(data)

    def close_input(self) -> None:
        with suppress(OSError, EOFError):
            self._channel.shutdown_write()

    def kill(self) -> None:
        self._channel.close()
        self.ended.wait(10)

    def _read(self, stream: str) -> bytes:
        receive = self._channel.recv if stream == "stdout" else self._channel.recv_stderr
        while True:
            try:
                return bytes(receive(1 << 16))
            except TimeoutError:
                continue

    def _wait(self) -> int:
        code = int(self._channel.recv_exit_status())
        end = time.monotonic() + 1.0
        while code == -1 and time.monotonic() < end:
            if not self._transport.is_active():
                raise lost(self._address)
            time.sleep(0.05)
        return code


class SshSession(Session):
    """An SSH connection; one SFTP channel is opened when it is first needed."""

    def __init__(self, address: str, clients: list[Any]) -> None:
        self.address = address
        self._clients = clients
        self._transport = clients[-1].get_transport()
        self._sftp_channel: Any = None
        self._lock = threading.Lock()

    def start(self, argv: Sequence[str]) -> Process:
        return SshProcess(self._transport, self.address, argv)

    @contextmanager
    def _sftp(self, remote: str) -> Iterator[Any]:
        """The SFTP channel for one operation on ``remote``, whose failures are told in edgeprune's terms."""
        with self._lock:
            try:
                if self._sftp_channel is None:
                    self._sftp_channel = paramiko.SFTPClient.from_transport(self._transport)
                    self._sftp_channel.get_channel().settimeout(_STALL_S)
                yield self._sftp_channel
            except TimeoutError as error:
                self._drop_sftp()
                raise DeviceTimeoutError(f"{self.address} stopped answering for {_STALL_S:.0f} s at {remote}") from error
            except (paramiko.SSHException, EOFError) as error:
                raise self._broken(error) from error
            except OSError as error:
                if (error.errno is None and not self._transport.is_active()) or str(error) == "Socket is closed":
                    raise self._broken(error) from error
                raise self._failure(remote, error) from error

    def _broken(self, error: BaseException) -> DeviceError:
        time.sleep(0.1)  # the transport's own thread may not have noticed yet
        self._drop_sftp()
        if self._transport.is_active():
            return DeviceError(
                f"{self.address} offers no file transfer: {error}", remedy="Switch the SFTP subsystem on in its sshd_config."
            )
        return lost(self.address, error)

    def _drop_sftp(self) -> None:
        if self._sftp_channel is not None:
            self._sftp_channel.close()
        self._sftp_channel = None

    def _failure(self, remote: str, error: OSError) -> DeviceError:
        """SFTP says only "Failure" when a disk is full: ask the device itself."""
        if error.errno in (errno.ENOENT, errno.EACCES):
            return DeviceError(f"cannot use {remote} on {self.address}: {error.strerror}")
        try:
            done = self.run(["sh", "-c", _DIAGNOSE, "edgeprune", remote], timeout_s=20)
        except DeviceError:
            return DeviceError(f"cannot use {remote} on {self.address}: {error}")
        reason = done.stderr.decode("utf-8", "replace").strip().rpartition(": ")[2]
        columns = done.stdout.decode("utf-8", "replace").split()
        if not any(text in reason for text in _FULL):
            return DeviceError(f"cannot use {remote} on {self.address}: {reason or error}")
        free = format_quantity("size", int(columns[3]) * 1024) if len(columns) > 5 and columns[3].isdigit() else "unknown"
        return DeviceFullError(f"cannot write {remote} on {self.address}: {reason} (free: {free})", remedy="Free some space there.")

    def _write(self, data: bytes, remote: str, progress: Progress | None) -> None:
        with self._sftp(remote) as sftp, sftp.open(remote, "wb") as file:
            file.set_pipelined(True)
            for begin in range(0, len(data), _CHUNK):
                end = min(begin + _CHUNK, len(data))
                file.set_pipelined(end < len(data))  # the last request waits for the answers to all
                file.write(data[begin:end])
                if progress and (end == len(data) or begin % (32 * _CHUNK) == 0):
                    progress(end, len(data))
            self._sync(sftp, file)

    @staticmethod
    def _sync(sftp: Any, file: Any) -> None:
        """OpenSSH's fsync extension (PROTOCOL, 4.8); a server without it writes when it likes."""
        try:
            sftp._request(CMD_EXTENDED, "fsync@openssh.com", file.handle)
        except OSError as error:
            if "unsupported" not in str(error).lower():
                raise

    def _rename(self, old: str, new: str) -> None:
        with self._sftp(new) as sftp:
            sftp.posix_rename(old, new)

    def sha256(self, remote: str) -> str | None:
        done = self.run(["sha256sum", remote])
        if done.code == 127:
            raise DeviceError(f"{self.address} has no sha256sum", remedy="Install coreutils (or busybox) there.")
        digest = done.stdout.decode("ascii", "replace").split(" ")[0].lstrip("\\")
        return digest if done.code == 0 else None

    def get(self, remote: str) -> bytes:
        with self._sftp(remote) as sftp, sftp.open(remote, "rb") as file:
            file.prefetch(file.stat().st_size, max_concurrent_requests=64)
            return bytes(file.read())

    def remove(self, remote: str) -> None:
        try:
            with self._sftp(remote) as sftp:
                sftp.remove(remote)
        except DeviceError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise

    def exists(self, remote: str) -> bool:
        try:
            with self._sftp(remote) as sftp:
                sftp.lstat(remote)
        except DeviceError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return False
            raise
        return True

    def mkdir(self, remote: str) -> None:
        done = self.run(["mkdir", "-p", "-m", "700", remote])
        if done.code != 0:
            reason = done.stderr.decode("utf-8", "replace").strip().rpartition(": ")[2]
            if _FULL[2] in reason:
                raise DeviceFullError(f"cannot make {remote} on {self.address}: {reason}", remedy="Make its disk writable.")
            raise self._failure(remote, OSError(reason))

    def close(self) -> None:
        self._drop_sftp()
        close_clients(self._clients)


def open_ssh(address: Address, timeout_s: float) -> SshSession:
    """Connect.  Raises what :func:`~edgeprune.devices.sshconnect.open_clients` raises, and :class:`ConnectionLostError`."""
    clients = open_clients(address, timeout_s)
    if not clients[-1].get_transport().is_active():
        close_clients(clients)
        raise ConnectionLostError(f"the connection to {address.text} was lost at once")
    return SshSession(address.text, clients)
