"""What this process holds in memory, from ``/proc/self/status``."""

from __future__ import annotations

import gc
import os
import resource
from typing import Dict


def status(path: str = "/proc/self/status") -> Dict[str, int]:
    """The ``Vm*`` and ``Rss*`` lines in bytes; empty where there is no such file."""
    values = {}
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith(("Vm", "Rss")):
                    name, value = line.split(":", 1)
                    values[name] = int(value.split()[0]) * 1024
    except OSError:
        pass
    return values


def forget_file(path: str) -> None:
    """Have the kernel drop a file's pages from its cache, so that loading it reads the storage (posix_fadvise(2)); best effort."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
    except (OSError, AttributeError):
        pass


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


def private_bytes() -> int:
    """What is resident and belongs to this process alone: no pages of libraries and other files.  0 where the kernel does not report it."""
    return status().get("RssAnon", 0)


def private_peak_bytes() -> int:
    """The peak without the file pages that are resident now, which only grow: the libraries' share of it."""
    now = status()
    return peak_bytes() - now.get("RssFile", 0) - now.get("RssShmem", 0) if "RssFile" in now else 0


def mapped_bytes(path: str) -> int:
    """What is resident of a file that is mapped into memory (a TFLite model's weights), from ``/proc/self/smaps``."""
    total, inside = 0, False
    try:
        with open("/proc/self/smaps", encoding="utf-8", errors="replace") as file:
            for line in file:
                head = line.split(None, 5)
                if "-" in head[0] and not head[0].endswith(":"):
                    inside = len(head) == 6 and head[5].strip() == path
                elif inside and head[0] == "Rss:":
                    total += int(head[1]) * 1024
    except OSError:
        pass
    return total
