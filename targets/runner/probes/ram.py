"""Main memory: ``/proc/meminfo``, and the control group's limit where it is lower."""

from __future__ import annotations

from typing import Any, Dict

from .files import number, text


def parse(meminfo: str) -> Dict[str, int]:
    """Fields of ``/proc/meminfo`` in bytes; ``ValueError`` when MemTotal is missing."""
    fields = {}
    for line in meminfo.splitlines():
        name, colon, value = line.partition(":")
        words = value.split()
        if colon and words and words[0].isdigit():
            fields[name.strip()] = int(words[0]) * (1024 if words[1:] == ["kB"] else 1)
    if "MemTotal" not in fields:
        raise ValueError("no MemTotal in /proc/meminfo")
    return fields


def probe(root: str = "/") -> Dict[str, Any]:
    """Total and available memory in bytes."""
    fields = parse(text(root, "proc/meminfo") or "MemTotal: 0 kB")
    total, free = fields["MemTotal"], fields.get("MemAvailable", fields.get("MemFree", 0))
    limit = number(root, "sys/fs/cgroup/memory.max")
    if limit and limit < total:
        total, free = limit, min(free, limit - (number(root, "sys/fs/cgroup/memory.current") or 0))
    return {"memory_bytes": total, "available_bytes": free}
