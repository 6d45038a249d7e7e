"""Which wheel of a runtime fits a device.  Checked against the package index in 2026-11."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeprune.devices.runner import Python


def _glibc(libc: str) -> tuple[int, ...]:
    name, _, version = libc.partition(" ")
    numbers = version.split(".")
    return tuple(int(number) for number in numbers) if name == "glibc" and all(number.isdigit() for number in numbers) else ()


def tflite_requirement(version: Sequence[int], arch: str, libc: str) -> list[str] | None:
    """What pip should install to run TFLite files, or None when no wheel is known to fit.

    ai-edge-litert: manylinux_2_27, x86_64 and aarch64, CPython 3.10 to 3.14; 2.1.0 is the last for 3.9.  tflite-runtime: 2.14.0 for CPython
    3.9 to 3.11, also armv7l, with glibc 2.34 on ARM; 2.13.0 for older glibc.  Both of the latter need numpy below 2.
    """
    python, glibc = tuple(version[:2]), _glibc(libc)
    if arch in ("x86_64", "aarch64") and glibc >= (2, 27):
        if (3, 10) <= python <= (3, 14):
            return ["ai-edge-litert"]
        if python == (3, 9):
            return ["ai-edge-litert==2.1.0"]
    if arch == "armv7l" and (3, 9) <= python <= (3, 11) and glibc >= (2, 34):
        return ["tflite-runtime==2.14.0", "numpy<2"]
    if arch in ("armv7l", "aarch64") and python == (3, 9) and glibc >= (2, 17):
        return ["tflite-runtime==2.13.0", "numpy<2"]
    return None


def torch_requirement(version: Sequence[int], arch: str, libc: str) -> list[str] | None:
    """What pip should install to run TorchScript files: torch has wheels for 64-bit x86 and ARM with glibc 2.28."""
    return ["torch"] if arch in ("x86_64", "aarch64") and _glibc(libc) >= (2, 28) and tuple(version[:2]) >= (3, 10) else None


_REQUIREMENTS = {"tflite": tflite_requirement, "torchscript": torch_requirement}


def advice(python: Python, engines: Sequence[str]) -> str:
    """The commands that give ``python``'s device the runtimes of ``engines``."""
    needed: list[str] = []
    for engine in engines:
        find = _REQUIREMENTS.get(engine)
        wheels = find(python.version, python.arch, python.libc) if find else None
        if wheels is None:
            return f"No wheel for {engine} is known to fit {python}: use a newer Python or a 64-bit system, or build the runtime yourself."
        needed += wheels
    quoted = " ".join(f"'{wheel}'" if "<" in wheel else wheel for wheel in needed)
    return f"On the device: {python.path} -m venv ~/.edgeprune/venv && ~/.edgeprune/venv/bin/pip install {quoted}"
