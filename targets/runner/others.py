"""What other programs computed meanwhile: from the kernel's accounts of processor time (man 5 proc, /proc/stat and /proc/PID/stat)."""

from __future__ import annotations

import os
import time
from typing import Optional, Sequence

from .probes.files import text

_BUSY = (0, 1, 2, 5, 6, 7)  # user, nice, system, irq, softirq, steal; idle, iowait and what user holds already are left out


def machine_ticks(root: str = "/") -> Optional[int]:
    """Ticks that all processors were busy since boot; None where the kernel does not report it."""
    fields = (text(root, "proc/stat") or "").partition("\n")[0].split()
    try:
        return sum(int(fields[1 + index]) for index in _BUSY if 1 + index < len(fields)) if fields[:1] == ["cpu"] else None
    except ValueError:
        return None


def process_ticks(pid: int, root: str = "/") -> int:
    """Ticks that a process and its children that ended took; 0 of one that is gone."""
    fields = (text(root, f"proc/{pid}/stat") or "").rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) if len(fields) >= 15 else 0


class Others:
    """Counts from its making on what all programs but this one and ``pids`` take."""

    def __init__(self, pids: Sequence[int], root: str = "/") -> None:
        self._pids, self._root = {os.getpid(), *pids}, root
        self._begin = time.monotonic()
        self._machine, self._own = machine_ticks(root), self._ticks()

    def _ticks(self) -> int:
        return sum(process_ticks(pid, self._root) for pid in self._pids)

    def share(self) -> Optional[float]:
        """Their share of the time of all processors, 0 to 1; None where the kernel does not report it."""
        now, elapsed_s = machine_ticks(self._root), time.monotonic() - self._begin
        if now is None or self._machine is None or elapsed_s <= 0:
            return None
        taken = (now - self._machine - (self._ticks() - self._own)) / os.sysconf("SC_CLK_TCK")
        return min(1.0, max(0.0, taken / (elapsed_s * (os.cpu_count() or 1))))
