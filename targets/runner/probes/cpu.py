"""Processor: ``/proc/cpuinfo`` and cpufreq."""

from __future__ import annotations

import os
import platform
from typing import Any, Dict, List, Optional

from .files import number, paths, text

# ARM Main ID Register part numbers (Linux: arch/arm64/include/asm/cputype.h), by implementer
_PARTS = {
    ("0x41", "0xb76"): "ARM1176",
    ("0x41", "0xc07"): "Cortex-A7",
    ("0x41", "0xd03"): "Cortex-A53",
    ("0x41", "0xd04"): "Cortex-A35",
    ("0x41", "0xd05"): "Cortex-A55",
    ("0x41", "0xd07"): "Cortex-A57",
    ("0x41", "0xd08"): "Cortex-A72",
    ("0x41", "0xd09"): "Cortex-A73",
    ("0x41", "0xd0a"): "Cortex-A75",
    ("0x41", "0xd0b"): "Cortex-A76",
    ("0x41", "0xd0c"): "Neoverse-N1",
    ("0x41", "0xd0d"): "Cortex-A77",
    ("0x41", "0xd40"): "Neoverse-V1",
    ("0x41", "0xd41"): "Cortex-A78",
    ("0x41", "0xd42"): "Cortex-A78AE",
    ("0x41", "0xd44"): "Cortex-X1",
    ("0x41", "0xd46"): "Cortex-A510",
    ("0x41", "0xd47"): "Cortex-A710",
    ("0x41", "0xd48"): "Cortex-X2",
    ("0x41", "0xd49"): "Neoverse-N2",
    ("0x41", "0xd4d"): "Cortex-A715",
    ("0x41", "0xd4e"): "Cortex-X3",
    ("0x4e", "0x004"): "Carmel",
}
_FEATURES = (
    *("neon", "asimd", "asimdhp", "asimddp", "i8mm", "sve", "sve2", "bf16"),
    *("sse4_1", "avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8"),
)


def parse(cpuinfo: str) -> Dict[str, Any]:
    """Model, number of processors, features and board of a ``/proc/cpuinfo`` text (x86 or ARM)."""
    fields: Dict[str, List[str]] = {}
    for line in cpuinfo.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.strip(), []).append(value.strip())
    if "processor" not in fields:
        raise ValueError("no processor in /proc/cpuinfo")
    names: List[str] = []
    implementers, parts = fields.get("CPU implementer", []), fields.get("CPU part", [])
    for index, part in enumerate(parts):
        known = _PARTS.get((implementers[index].lower(), part.lower()), f"ARM {implementers[index]}/{part}")
        if known not in names:
            names.append(known)
    flags = set((fields.get("Features") or fields.get("flags") or [""])[0].split())
    model = " + ".join(names) or (fields.get("model name") or fields.get("Processor") or ["unknown"])[0]
    return {
        "cpu": " ".join(model.split()),
        "processors": len([value for value in fields["processor"] if value.isdigit()]),
        "features": [feature for feature in _FEATURES if feature in flags],
        "board": (fields.get("Model") or [""])[0],
        "mhz": max((float(value) for value in fields.get("cpu MHz", [])), default=None),
    }


def _max_mhz(root: str) -> Optional[float]:
    limits = [number(root, path) for path in paths(root, "sys/devices/system/cpu/cpu[0-9]*/cpufreq/cpuinfo_max_freq")]
    return max((limit / 1000 for limit in limits if limit), default=None)


def probe(root: str = "/") -> Dict[str, Any]:
    """What the processor is.  ``cores`` is how many this process may use."""
    found = parse(text(root, "proc/cpuinfo") or "processor : 0")
    board = text(root, "proc/device-tree/model") or found["board"]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        "cpu": found["cpu"],
        "arch": platform.machine(),
        "cores": cores,
        "max_mhz": _max_mhz(root) or found["mhz"],
        "features": found["features"],
        "board": board,
    }


def state(root: str = "/") -> Dict[str, Any]:
    """Governors and clocks now; empty where the kernel does not report them."""
    base = "sys/devices/system/cpu/cpu[0-9]*/cpufreq/"
    governors = {text(root, path) for path in paths(root, base + "scaling_governor")}
    clocks = [number(root, path) for path in paths(root, base + "scaling_cur_freq")]
    limits = [number(root, path) for path in paths(root, base + "scaling_max_freq")]
    return {
        "governor": "+".join(sorted(governor for governor in governors if governor)),
        "clocks_mhz": [clock / 1000 for clock in clocks if clock],
        "limit_mhz": max((limit / 1000 for limit in limits if limit), default=None),
    }
