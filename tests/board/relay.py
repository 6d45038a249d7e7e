"""A bad network link: two ends, here and in a network namespace, and a relay of packets between them that delays, loses or swallows.

    python relay.py NAMESPACE HERE THERE       prints "up" when both ends are; then reads lines of "DELAY_MS LOSS_PERCENT" or "down"

A stand-in for the kernel's netem, which not every kernel has.  Each end is a TUN device (kernel doc: networking/tuntap.rst).
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import os
import random
import selectors
import struct
import subprocess
import sys
import time

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x1, 0x1000
_CLONE_NEWNET = 0x40000000
_QUEUE = 4000  # packets on their way: beyond that they are dropped, as a full router would


def _enter(namespace: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def open_end(namespace: str | None, name: str, own: str, other: str) -> int:
    """A TUN device of that name, with its address and its peer's, in a namespace."""
    here = os.open("/proc/self/ns/net", os.O_RDONLY)
    if namespace:
        _enter(os.open(f"/run/netns/{namespace}", os.O_RDONLY))
    end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    _enter(here)
    where = ["-n", namespace] if namespace else []
    for command in (["addr", "add", own, "peer", other, "dev", name], ["link", "set", name, "up"]):
        subprocess.run(["ip", *where, *command], check=True)
    return end


class Relay:
    """Moves packets between two ends, each after ``delay_s``, but for a share ``loss`` of them; none while it is ``down``."""

    def __init__(self, ends: tuple[int, int]) -> None:
        self.delay_s, self.loss, self.down = 0.0, 0.0, False
        self._ends = ends
        self._queue: list[tuple[float, int, int, bytes]] = []
        self._count = 0

    def take(self, end: int) -> None:
        """Accept what has come in at one end."""
        while True:
            try:
                packet = os.read(end, 65536)
            except BlockingIOError:
                return
            if self.down or random.random() < self.loss or len(self._queue) > _QUEUE:
                continue
            self._count += 1
            other = self._ends[1] if end == self._ends[0] else self._ends[0]
            heapq.heappush(self._queue, (time.monotonic() + self.delay_s, self._count, other, packet))

    def give(self) -> float | None:
        """Send what is due; the seconds until more is."""
        while self._queue:
            wait = self._queue[0][0] - time.monotonic()
            if wait > 0:
                return wait
            _, _, end, packet = heapq.heappop(self._queue)
            try:
                os.write(end, packet)
            except OSError:
                continue
        return None

    def obey(self, line: str) -> None:
        """Change as a line of the standard input says."""
        self.down = line.strip() == "down"
        if not self.down:
            delay_ms, loss_percent = map(float, line.split())
            self.delay_s, self.loss = delay_ms / 1000, loss_percent / 100


def main(namespace: str, here: str, there: str) -> None:
    name = f"edge{os.getpid() % 10**8}"
    ends = (open_end(None, name, here, there), open_end(namespace, name, there, here))
    relay = Relay(ends)
    selector = selectors.DefaultSelector()
    for source in (*ends, 0):
        selector.register(source, selectors.EVENT_READ)
    print("up", flush=True)
    while True:
        for key, _ in selector.select(relay.give()):
            if key.fd != 0:
                relay.take(key.fd)
            elif line := sys.stdin.readline():
                relay.obey(line)
            else:
                return


if __name__ == "__main__":
    main(*sys.argv[1:])
