"""From an address to an open session."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from edgeprune.devices.adb import open_adb
from edgeprune.devices.address import parse_address
from edgeprune.devices.local import LocalSession
from edgeprune.devices.session import Session
from edgeprune.errors import ConnectionLostError, DeviceError, TransientError, UnreachableError

T = TypeVar("T")
DROPPED: tuple[type[TransientError], ...] = (UnreachableError, ConnectionLostError)

_worker = False


def refuse_devices() -> None:
    """Let :func:`connect` refuse from now on: this process is a worker, and devices belong to the one that gives it work."""
    global _worker
    _worker = True


def with_retries(work: Callable[[], T], retries: int, wait_s: float = 0.5) -> T:
    """Do ``work`` again when the connection fails or drops, up to ``retries`` more times, waiting twice as long each time."""
    for attempt in range(retries):
        try:
            return work()
        except DROPPED:
            time.sleep(wait_s * 2**attempt)
    return work()


def connect(address: str, *, timeout_s: float = 10.0, retries: int = 2) -> Session:
    """Open a session to ``local:``, ``ssh://[user@]host[:port]`` or ``adb:SERIAL``.

    ``timeout_s`` limits each step of connecting; an unreachable device is tried ``retries`` more times.  Raises :class:`TargetError`,
    :class:`UnreachableError`, :class:`HostKeyError`, :class:`AuthenticationError`, and :class:`DeviceError` in a worker.
    """
    if _worker:
        raise DeviceError(
            f"{address} was to be opened in a worker, and devices belong to the process that gives workers their work",
            remedy="Measure there, before or after what workers do.",
        )
    parsed = parse_address(address)
    if parsed.scheme == "local":
        return LocalSession()
    if parsed.scheme == "adb":
        return with_retries(lambda: open_adb(parsed, timeout_s), retries)
    from edgeprune.devices.ssh import open_ssh  # paramiko takes a while to import

    return with_retries(lambda: open_ssh(parsed, timeout_s), retries)
