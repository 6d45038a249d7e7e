"""Which wheel of a runtime fits a device.  Checked against the package index in 2026-11."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgeprune.devices.pythons import Python
from edgeprune.engines import ENGINES
from edgeprune.errors import InputError, NoRuntimeError, suggest

_64 = ("x86_64", "aarch64")
_NEWEST = (3, 99)  # where the package keeps making wheels for new Pythons: the index has the last word


@dataclass(frozen=True)
class Wheel:
    """What to install to run an engine's files, and where it fits.

    ``first``, ``last``: CPython versions; ``glibc``: the least version on ``archs``; ``system``: packages without a wheel there, which the
    device's own Python must have.
    """

    engine: str
    runtime: str
    requirements: tuple[str, ...]
    archs: tuple[str, ...]
    first: tuple[int, int]
    last: tuple[int, int]
    glibc: tuple[int, int]
    system: tuple[str, ...] = ()

    def fits(self, python: Python) -> bool:
        """Whether it is known to run there."""
        return python.arch in self.archs and self.first <= python.version[:2] <= self.last and self.glibc <= glibc(python)

    def __str__(self) -> str:
        versions = f"{self.first[0]}.{self.first[1]}" + ("" if self.last == self.first else " or newer")
        if self.last not in (self.first, _NEWEST):
            versions = f"{self.first[0]}.{self.first[1]} to {self.last[0]}.{self.last[1]}"
        return f"{self.requirements[0]} (Python {versions}, {' or '.join(self.archs)}, glibc {self.glibc[0]}.{self.glibc[1]})"


# Best first.  tflite-runtime was built against numpy 1; on 32-bit ARM numpy has no wheel.
WHEELS = (
    Wheel("tflite", "ai-edge-litert", ("ai-edge-litert",), _64, (3, 10), (3, 14), (2, 27)),
    Wheel("tflite", "ai-edge-litert", ("ai-edge-litert==2.1.0",), _64, (3, 9), (3, 9), (2, 27)),
    Wheel("tflite", "tflite-runtime", ("tflite-runtime==2.14.0", "numpy<2"), ("aarch64",), (3, 9), (3, 11), (2, 34)),
    Wheel("tflite", "tflite-runtime", ("tflite-runtime==2.14.0", "numpy<2"), ("x86_64",), (3, 9), (3, 11), (2, 17)),
    Wheel("tflite", "tflite-runtime", ("tflite-runtime==2.13.0", "numpy<2"), ("aarch64",), (3, 9), (3, 9), (2, 17)),
    Wheel("tflite", "tflite-runtime", ("tflite-runtime==2.14.0",), ("armv7l",), (3, 9), (3, 11), (2, 34), ("numpy",)),
    Wheel("tflite", "tflite-runtime", ("tflite-runtime==2.13.0",), ("armv7l",), (3, 9), (3, 9), (2, 17), ("numpy",)),
    Wheel("torchscript", "torch", ("torch", "numpy"), _64, (3, 10), _NEWEST, (2, 28)),
    Wheel("onnx", "onnxruntime", ("onnxruntime",), _64, (3, 9), _NEWEST, (2, 27)),
)
_ENGINES = tuple(dict.fromkeys(wheel.engine for wheel in WHEELS))


def glibc(python: Python) -> tuple[int, ...]:
    """Version of the GNU C library; empty where it is another one, which no wheel here fits."""
    match = re.fullmatch(r"glibc (\d+)\.(\d+)(?:\.\d+)*", python.libc)
    return (int(match[1]), int(match[2])) if match else ()


def _by_hand(engine: str) -> str:
    """How an engine gets onto a device that no wheel brings; empty for others."""
    return ENGINES[engine].by_hand if engine in ENGINES else ""


def find_wheel(engine: str, python: Python, runtime: str | None = None) -> Wheel:
    """The best wheel of an engine that fits, of ``runtime`` alone where that is given.

    Raises :class:`InputError` for an unknown engine or runtime, :class:`NoRuntimeError` saying what would fit.
    """
    known = [wheel for wheel in WHEELS if wheel.engine == engine]
    if remedy := _by_hand(engine):
        raise NoRuntimeError(f"no wheel contains the engine {engine}", remedy=remedy)
    if not known:
        raise InputError(f"unknown engine {engine!r}", remedy=suggest(engine, _ENGINES, "engines"))
    wanted = [wheel for wheel in known if runtime in (None, wheel.runtime)]
    if not wanted:
        names = dict.fromkeys(wheel.runtime for wheel in known)
        raise InputError(f"{runtime!r} is not a runtime for {engine}", remedy=suggest(runtime, names, "runtimes for it"))
    for wheel in wanted:
        if wheel.fits(python):
            return wheel
    raise NoRuntimeError(
        f"no wheel of {runtime or engine} is known to fit {python}", remedy="What would fit: " + "; ".join(map(str, wanted)) + "."
    )


def platforms(python: Python) -> Iterator[str]:
    """The device's platform tags, most specific first (PEP 600; PEP 599 for the old name)."""
    major, minor = glibc(python) or (2, 0)
    for least in range(minor, 4, -1):
        yield f"manylinux_{major}_{least}_{python.arch}"
        if least == 17:
            yield f"manylinux2014_{python.arch}"
    yield f"linux_{python.arch}"


def advice(address: str, python: Python, engines: Sequence[str]) -> str:
    """How to give ``python``'s device the runtimes of ``engines``."""
    for engine in engines:
        if remedy := _by_hand(engine):
            return remedy
    try:
        wheels = [find_wheel(engine, python) for engine in engines]
    except NoRuntimeError as error:
        return f"{error.message[0].upper()}{error.message[1:]}. {error.remedy}"
    needed = shlex.join(requirement for wheel in wheels for requirement in wheel.requirements)
    if address.startswith("local:"):
        return f"{python.path} -m pip install {needed}"
    chosen = " ".join(f"--engine {engine}" for engine in engines)
    return f"edgeprune setup {shlex.quote(address)} {chosen}    (installs {needed} there)"
