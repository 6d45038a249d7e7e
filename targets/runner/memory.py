"""What this process holds in memory, from ``/proc/self/status``."""

from __future__ import annotations

import gc
import resource
from typing import Dict


def status(path: str = "/proc/self/status") -> Dict[str, int]:
    """The ``Vm*`` lines in bytes; empty where there is no such file."""
    values = {}
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("Vm"):
                    name, value = line.split(":", 1)
                    values[name] = int(value.split()[0]) * 1024
    except OSError:
        pass
    return values


def reset_peak() -> None:
    """Set the peak back to what is resident now, so that what an import used and freed does not count.

    By ``clear_refs`` (kernel doc: filesystems/proc.rst).
    """
    gc.collect()
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    except OSError:
        pass


def peak_bytes() -> int:
    """The largest resident size since :func:`reset_peak` (or since the start, where that does not work)."""
    return status().get("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
