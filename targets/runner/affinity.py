"""Which processors a model runs on: all, the big or the little ones of a mixed device, or a list."""

from __future__ import annotations

import os
from typing import Dict, List

from .probes.files import number, paths
from .protocol import RunnerError

_BASE = "sys/devices/system/cpu/cpu"


def parse_list(text: str) -> List[int]:
    """``0,2-3`` as numbers; ``ValueError`` when it is not such a list."""
    found: List[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        found += range(int(first), int(last if dash else first) + 1)
    return sorted(set(found))


def speeds(root: str = "/") -> Dict[int, int]:
    """How fast each processor is against the others: ``cpu_capacity`` (kernel doc: ABI/testing/sysfs-devices-system-cpu), else its highest
    clock; empty where the kernel reports neither."""
    for name in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"):
        found = {int(path[len(_BASE) :].split("/")[0]): number(root, path) for path in paths(root, f"{_BASE}[0-9]*/{name}")}
        known = {cpu: value for cpu, value in found.items() if value}
        if known:
            return known
    return {}


def doubt(affinity: str, root: str = "/") -> str:
    """What a reader has to know about the choice; empty when it is what was asked for."""
    if affinity in ("big", "little") and not speeds(root):
        return f"the kernel does not report how fast the processors are: affinity {affinity} left the model on all of them, give a list"
    return ""


def choose(affinity: str, root: str = "/") -> List[int]:
    """The processors to use; an empty list leaves it to the scheduler.

    ``big`` are all but the slowest kind, ``little`` are the slowest; where all are equally fast, both are all of them, and where the
    kernel does not report it, see :func:`doubt`.

    Raises :class:`RunnerError` when the text says nothing known, or processors that this process may not use.
    """
    if affinity == "all" or not hasattr(os, "sched_getaffinity"):
        return []
    allowed = os.sched_getaffinity(0)
    if affinity in ("big", "little"):
        known = {cpu: speed for cpu, speed in speeds(root).items() if cpu in allowed}
        slowest = min(known.values(), default=0)
        mixed = len(set(known.values())) > 1
        return sorted(cpu for cpu, speed in known.items() if not mixed or (speed == slowest) == (affinity == "little"))
    try:
        chosen = parse_list(affinity)
    except ValueError:
        raise RunnerError("request", f"affinity {affinity!r} is not all, big, little, or a list such as 0,2-3") from None
    missing = [str(cpu) for cpu in chosen if cpu not in allowed]
    if missing:
        raise RunnerError("request", f"no processor {', '.join(missing)}: this process may use {', '.join(map(str, sorted(allowed)))}")
    return chosen
