"""This machine as the host: what of it is free, who else uses it, and the end of process trees.  On Linux, macOS and Windows."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")
"""Where Linux shows the limits of a container (kernel doc: cgroup-v2)."""


def cores() -> int:
    """How many cores this process may use: those of its affinity, and of its container's quota."""
    with suppress(AttributeError, OSError):  # macOS has no affinity
        known = len(psutil.Process().cpu_affinity() or ())
        return max(1, min(known or 1, _quota() or known))
    return psutil.cpu_count() or 1


def threads() -> int:
    """How many threads compute fastest here: one a physical core that this process may use."""
    usable, physical = cores(), psutil.cpu_count(logical=False) or 1
    return max(1, min(usable, physical)) if usable == (psutil.cpu_count() or 1) else usable


def _quota() -> int | None:
    try:
        wanted, period = (_CGROUP / "cpu.max").read_text().split()
        return None if wanted == "max" else max(1, int(wanted) // int(period))
    except (OSError, ValueError):
        return None


def free_memory() -> int:
    """Bytes that programs can still take without swapping, within the container's limit."""
    free = int(psutil.virtual_memory().available)
    try:
        limit, used = (int((_CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        return min(free, max(0, limit - used))
    except (OSError, ValueError):
        return free


def oom_kills() -> int | None:
    """How many processes the system has ended for lack of memory since boot; None where it does not count them (Linux alone does)."""
    try:
        counted = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
        return int(counted["oom_kill"])
    except (OSError, KeyError, ValueError):
        return None


def own_processes() -> list[int]:
    """This process and all that it started, and they in turn."""
    this = psutil.Process()
    return [this.pid, *(child.pid for child in _below(this))]


def end_tree(pid: int, group: bool = False) -> None:
    """Kill a process and all that it started; with ``group``, also its process group where the system has these, in which what lost its
    parent stays.  One that is gone is not an error; its parent still has to wait for it."""
    family: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        family.append(psutil.Process(pid))
        family[:0] = _below(family[0])
    for process in family[:-1]:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            process.kill()
    if group and hasattr(os, "killpg"):  # after those that left it: this process may be in it
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
    for process in family[-1:]:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            process.kill()


def _below(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return []


@dataclass(frozen=True)
class Disturber:
    """A process of somebody else's.  ``share``: of one core's time, as a fraction."""

    name: str
    pid: int
    share: float

    def __str__(self) -> str:
        return f"{self.name}, pid {self.pid}, {100 * self.share:.0f} %"


class Watch:
    """Sees, from its making on, what others than this program and its children compute."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._times = _processor_times()
        self._busy = _busy_s()

    def others(self) -> tuple[float, list[Disturber]]:
        """Their share of the time of all cores, 0 to 1, and who took most of it, the busiest first: at least a twentieth of a core."""
        elapsed_s, own, now = max(time.monotonic() - self._since, 1e-3), set(own_processes()), _processor_times()
        taken = {key: (name, seconds - self._times.get(key, (name, 0.0))[1]) for key, (name, seconds) in now.items()}
        ours = sum(seconds for (pid, _), (_, seconds) in taken.items() if pid in own)
        found = [Disturber(name, pid, seconds / elapsed_s) for (pid, _), (name, seconds) in taken.items() if pid not in own]
        found = sorted((one for one in found if one.share >= 0.05), key=lambda one: -one.share)
        share = (_busy_s() - self._busy - ours) / (elapsed_s * (psutil.cpu_count() or 1))
        return min(1.0, max(0.0, share)), found


def _busy_s() -> float:
    """Seconds that all cores computed since boot."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0))


def _processor_times() -> dict[tuple[int, float], tuple[str, float]]:
    """Name and seconds of processor time by process: its number, and when it began, since numbers are used again."""
    found = {}
    for process in psutil.process_iter(["pid", "create_time", "name", "cpu_times"]):
        known = process.info
        if known["cpu_times"] is not None and known["create_time"] is not None:  # None where the system does not let us see it
            found[known["pid"], known["create_time"]] = (known["name"] or "?", known["cpu_times"].user + known["cpu_times"].system)
    return found
