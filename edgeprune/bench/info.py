"""What a device is."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import TypedDict

from edgeprune.bench.answers import REMEDY, decoded
from edgeprune.bench.conditions import Conditions
from edgeprune.decode import JsonObject, convert
from edgeprune.devices.runner import RuntimeAnswer
from edgeprune.engines import CPU
from edgeprune.errors import InputError, RunnerError
from edgeprune.profile import match


@dataclass(frozen=True)
class Chip:
    """An accelerator of a device: its ``name`` for ``--accelerator``, and what it is.  ``engine``: whose runtime can use it; "" for what is
    there, whether or not a runtime can."""

    engine: str
    name: str
    what: str


@dataclass(frozen=True)
class ProbeAnswer:
    """What the runner says of its device in another form than :class:`DeviceInfo` has it; the rest is the same."""

    runtimes: dict[str, RuntimeAnswer]
    conditions: Conditions
    accelerators: tuple[Chip, ...] = ()


class DeviceFacts(TypedDict, total=False):
    """A device as a run keeps it: :meth:`DeviceInfo.to_json`, and how it was measured.

    ``engine``, ``threads``: what ran the models, with how many. ``key``: :meth:`DeviceInfo.key` of that engine. Of a device that is only
    known by its profile, and in older runs, other fields are missing.
    """

    engine: str
    threads: int | None
    profile: str | None
    key: str
    address: str
    cpu: str
    arch: str
    cores: int
    max_mhz: float | None
    features: list[str]
    board: str
    memory_bytes: int
    os: str
    kernel: str
    libc: str
    python: str
    python_path: str
    hostname: str
    machine: str
    runtimes: dict[str, tuple[str, str]]
    broken: dict[str, str]
    meters: list[str]
    accelerator: str
    adapter: str
    accelerators: list[dict[str, str]]
    channel_step: int
    conditions: Conditions


def facts_of(values: object) -> DeviceFacts:
    """What :class:`DeviceFacts` was written as.  Raises :class:`InputError` when it is damaged."""
    try:
        return convert(values, DeviceFacts)
    except ValueError as error:
        raise InputError(f"this does not describe a device: {error}") from error


@dataclass(frozen=True)
class DeviceInfo:
    """A device as probed.

    ``cores``: how many a process may use.  ``max_mhz``: None where the kernel does not report it.  ``libc``: such as ``glibc 2.36``.
    ``runtimes``: package and version by engine, e.g. ``{"tflite": ("ai-edge-litert", "2.3.0")}``; ``broken``: by engine, why an installed
    one cannot be imported.  ``machine``: a hash that tells this machine from others of its kind.  ``conditions``: load, clocks, governor,
    temperatures when probed.  ``accelerator``: what runs its models; ``adapter``: which device that is, by the driver's own name.
    ``accelerators``: those there are, where they were asked for.
    """

    address: str
    cpu: str
    arch: str
    cores: int
    max_mhz: float | None
    features: tuple[str, ...]
    board: str
    memory_bytes: int
    os: str
    kernel: str
    libc: str
    python: str
    python_path: str
    hostname: str
    machine: str
    runtimes: dict[str, tuple[str, str]]
    broken: dict[str, str]
    meters: tuple[str, ...]
    conditions: Conditions = field(default_factory=Conditions)
    accelerator: str = CPU
    adapter: str = ""
    accelerators: tuple[Chip, ...] = ()

    @classmethod
    def from_probe(cls, address: str, probe: JsonObject, accelerator: str = CPU) -> DeviceInfo:
        """From the runner's answer, which was asked for that accelerator.

        Raises :class:`RunnerError` naming the address when anything of it is missing or of another type."""
        answer = decoded(probe, ProbeAnswer, address, "the description")
        known = {
            "address": address,
            "runtimes": {name: (one.runtime, one.version) for name, one in answer.runtimes.items() if one.error is None},
            "broken": {name: one.error.message for name, one in answer.runtimes.items() if one.error is not None},
            "conditions": answer.conditions,
            "accelerator": accelerator,
            "adapter": next((one.adapter for one in answer.runtimes.values() if one.adapter), ""),
            "accelerators": answer.accelerators,
        }
        found = decoded(probe | known, cls, address, "the description")
        if found.cores < 1 or found.memory_bytes < 0:
            raise RunnerError(
                f"{address} reports {found.cores} cores and {found.memory_bytes} bytes of memory, which cannot be", remedy=REMEDY
            )
        return found

    @property
    def identity(self) -> str:
        """This very device, for telling measurements apart."""
        return f"{self.board or self.cpu} ({self.arch}, {self.cores} cores, {self.machine}{self._on(', ')})"

    def _on(self, mark: str) -> str:
        """What runs the models, after a ``mark``; nothing for the processor."""
        if self.accelerator == CPU:
            return ""
        adapter = self.adapter.partition(",")[0]
        return f"{mark}{self.accelerator}" + (f" by {adapter}" if adapter else "")

    def key(self, engine: str) -> str:
        """A name for caches: this device with this engine's runtime and version, safe in a file name."""
        runtime, version = self.runtimes.get(engine, (engine, "none"))
        text = f"{self.board or self.cpu}-{self.arch}-{self.cores}c-{self.machine}-{runtime}-{version}{self._on('-')}"
        return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-").lower()

    @property
    def profile(self) -> str | None:
        """Name of the device profile that matches, or None."""
        return match(self)

    def to_json(self) -> JsonObject:
        """As plain JSON values."""
        document = asdict(self) | {"profile": self.profile}
        if self.accelerator == CPU:
            del document["accelerator"], document["adapter"]
        if not self.accelerators:
            del document["accelerators"]
        return document
