"""A device over SSH: everything is a command in a channel; no file transfer subsystem is needed."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import paramiko

from edgeprune.devices.address import Address
from edgeprune.devices.commands import CommandSession, StreamProcess
from edgeprune.devices.framing import login_line, new_mark
from edgeprune.devices.sshconnect import close_clients, lost, open_clients
from edgeprune.errors import ConnectionLostError, DeviceError, DeviceTimeoutError

_STALL_S = 30.0
_CHUNK = 32 * 1024  # OpenSSH takes no more in one packet
_TOLD = 1 << 20
_AHEAD = 1 << 18
_FAST_B_S = 125e6  # a gigabit link
_LONG_S = 0.02


class _Flow:
    """Keeps what is under way in a channel short: 256 kB, what a fast link carries in its round trip, and more where that is waited for.

    OpenSSH's server copies its buffer for every packet by which that grows: filling its window of 2 MB at once touches 270 MB of memory
    (counted as page faults of version 9.2).
    """

    def __init__(self, channel: Any, transport: Any) -> None:
        self._channel = channel
        self._window = channel.out_window_size
        self._ahead = _AHEAD + _round_trip_s(transport.sock) * _FAST_B_S

    def wait(self) -> None:
        """Wait until less than that is under way, but not for long."""
        channel = self._channel
        with channel.lock:
            self._window = max(self._window, channel.out_window_size)
            end = time.monotonic() + _LONG_S
            while self._window - channel.out_window_size >= self._ahead and not channel.closed:
                if not channel.out_buffer_cv.wait(end - time.monotonic()):
                    self._ahead *= 2  # the link is longer than it looks from here


def _round_trip_s(sock: Any) -> float:
    """What the kernel measured of a connection; 0 where it does not report it (tcp(7): ``tcpi_rtt`` of ``TCP_INFO``, in microseconds)."""
    try:
        return int(struct.unpack_from("I", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 68)[0]) / 1e6
    except (AttributeError, OSError, struct.error):
        return 0.0


class SshProcess(StreamProcess):
    """A command in a channel of its own.  Over SSH a command that a signal ended has the code -1."""

    def __init__(self, transport: Any, address: str, argv: Sequence[str]) -> None:
        mark = new_mark()
        super().__init__(argv[0], address, mark)
        self._transport = transport
        try:
            self._channel = transport.open_session(timeout=_STALL_S)
            self._channel.settimeout(_STALL_S)
            self._channel.exec_command(login_line(argv, mark))  # no shell remains in between: what happens to it is seen here
        except (paramiko.SSHException, EOFError, OSError) as error:
            if transport.is_active() and isinstance(error, paramiko.ChannelException):
                raise DeviceError(f"{address} refuses another SSH channel: {error}") from error
            raise lost(address, error) from error
        self._begin()

    def write(self, data: bytes) -> None:
        with suppress(DeviceTimeoutError):  # a command that reads nothing
            self.send(memoryview(data))

    def send(self, data: memoryview, progress: Callable[[int], None] | None = None) -> None:
        """Stream to its standard input, telling every megabyte how much is sent.

        Returns early when it has ended, or the connection has: its outputs and its end say why.  Raises :class:`DeviceTimeoutError`.
        """
        sent, flow = 0, _Flow(self._channel, self._transport)
        for begin in range(0, len(data), _TOLD):
            end = min(begin + _TOLD, len(data))
            try:
                while sent < end:
                    flow.wait()
                    sent += self._channel.send(data[sent:end][:_CHUNK].tobytes())
            except TimeoutError as error:
                raise DeviceTimeoutError(f"{self.address} accepted no data for {_STALL_S:.0f} s") from error
            except (OSError, EOFError):
                return
            if progress:
                progress(sent)

    def close_input(self) -> None:
        with suppress(OSError, EOFError):
            self._channel.shutdown_write()

    def _cut(self) -> None:
        self._channel.close()

    def _read(self, stream: str) -> bytes:
        receive = self._channel.recv if stream == "stdout" else self._channel.recv_stderr
        while True:
            try:
                return bytes(receive(1 << 16))
            except TimeoutError:
                continue

    def _exit(self) -> None:
        self._channel.recv_exit_status()

    def _code(self) -> int:
        code = int(self._channel.recv_exit_status())
        end = time.monotonic() + 1.0
        while code == -1 and time.monotonic() < end:
            if not self._transport.is_active():
                raise lost(self.address)
            time.sleep(0.05)
        return code


class SshSession(CommandSession):
    """An SSH connection; each command has a channel of its own."""

    def __init__(self, address: str, clients: list[Any]) -> None:
        self.address = address
        self._clients = clients
        self._transport = clients[-1].get_transport()

    def start(self, argv: Sequence[str]) -> SshProcess:
        return SshProcess(self._transport, self.address, argv)

    def close(self) -> None:
        close_clients(self._clients)


def open_ssh(address: Address, timeout_s: float) -> SshSession:
    """Connect.  Raises what :func:`~edgeprune.devices.sshconnect.open_clients` raises, and :class:`ConnectionLostError`."""
    clients = open_clients(address, timeout_s)
    if not clients[-1].get_transport().is_active():
        close_clients(clients)
        raise ConnectionLostError(f"the connection to {address.text} was lost at once")
    return SshSession(address.text, clients)
