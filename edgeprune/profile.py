"""What is known of a kind of device without asking one: processor, memory, a latency prior, power; every fact with its source."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from edgeprune.decode import convert, unknown_field
from edgeprune.engines import TFLITE
from edgeprune.errors import ProfileError, suggest
from edgeprune.resources import resource

KINDS: Final = ("conv", "pointwise", "depthwise", "fully_connected")
"""Kernels that multiply: dense KxK and 1x1 convolutions, depthwise ones, fully-connected layers."""

# Every fact: its unit ("" is text), and whether a profile must state it.
SCHEMA: Final[dict[str, tuple[str, bool]]] = {
    "runtime": ("", False),
    "cpu.architecture": ("", True),
    "cpu.core": ("", True),
    "cpu.cores": ("cores", True),
    "cpu.clock_hz": ("Hz", False),
    "memory.bytes": ("B", False),
    "memory.bandwidth_bytes_per_s": ("B/s", False),
    "memory.flash_bytes": ("B", False),
    "prior.runtime": ("", True),
    "prior.threads": ("threads", True),
    **{f"prior.macs_per_s.{kind}": ("MAC/s", True) for kind in KINDS},
    "prior.bytes_per_s": ("B/s", True),
    "prior.kernel_overhead_ms": ("ms", True),
    "prior.channel_step": ("channels", True),
    "power.idle_w": ("W", True),
    "power.active_w": ("W", True),
    "power.energy_per_mac_pj": ("pJ", True),
    "power.energy_per_byte_pj": ("pJ", True),
    "battery.capacity_mwh": ("mWh", False),
}
MICRO: Final = "tflite-micro"
"""The runtime of microcontrollers.  Their profiles may leave out a prior or power altogether: for some nothing is published."""

_WHOLE = ("cores", "threads", "channels", "B")
_TABLES = {key.rpartition(".")[0] for key in SCHEMA} | {"match"}


@dataclass(frozen=True)
class Fact:
    """One value, its unit ("" for text) and where it comes from.  ``[3P]`` in the source: one unofficial source; ``[U]``: unverified."""

    value: float | str
    unit: str
    source: str


@dataclass(frozen=True)
class Cpu:
    """``architecture`` as ``uname -m`` says it; ``core``: the core's name, kinds joined by `` + ``; ``clock_hz`` of the fastest core."""

    architecture: str
    core: str
    cores: int
    clock_hz: float | None


@dataclass(frozen=True)
class Memory:
    """Main memory (a microcontroller's RAM) and what programs lie in; None where a board is sold in several sizes or the figure is not
    published."""

    bytes: int | None
    bandwidth_bytes_per_s: float | None
    flash_bytes: int | None = None


@dataclass(frozen=True)
class Prior:
    """A roofline of the device under ``runtime`` with ``threads`` threads, fitted to published latencies; a stand-in for measurements.

    ``macs_per_s``: by kind (:data:`KINDS`). ``bytes_per_s``: of what only moves data (element-wise, pooling, copies).
    ``kernel_overhead_ms``: of every kernel. ``channel_step``: widths that are multiples of it waste no vector lanes.
    """

    runtime: str
    threads: int
    macs_per_s: Mapping[str, float]
    bytes_per_s: float
    kernel_overhead_ms: float
    channel_step: int


@dataclass(frozen=True)
class Power:
    """Modelled: an inference of ``t`` seconds takes ``(active_w - idle_w) * t`` joules plus so many picojoules for each MAC and byte moved.

    ``idle_w``: the board at rest. ``active_w``: the board while all threads run, without what the MACs and bytes take.
    """

    idle_w: float
    active_w: float
    energy_per_mac_pj: float
    energy_per_byte_pj: float


@dataclass(frozen=True)
class Match:
    """How a device of this kind is recognised.

    ``boards``: starts of the device tree's model. ``core``, ``cores``, ``max_memory_bytes``: only where the device does not say its board.
    """

    boards: tuple[str, ...] = ()
    max_memory_bytes: int | None = None
    by_cpu: bool = False


@dataclass(frozen=True)
class Profile:
    """One kind of device. ``facts``: every value with unit and source, by dotted key as in the file.

    ``prior``, ``power``: None only for a microcontroller of which none is published.
    """

    name: str
    title: str
    cpu: Cpu
    memory: Memory
    prior: Prior | None
    power: Power | None
    match: Match
    facts: Mapping[str, Fact] = field(repr=False)

    @property
    def channel_step(self) -> int:
        """Widths that are multiples of it waste no vector lanes; 1 where nothing is known of them."""
        return self.prior.channel_step if self.prior else 1

    @property
    def runtime(self) -> str:
        """What runs models there: ``tflite`` unless the file says otherwise."""
        return str(self.facts["runtime"].value) if "runtime" in self.facts else TFLITE

    @property
    def battery_mwh(self) -> float | None:
        """What its battery holds when it is full; None where that is not stated, and for what is plugged in."""
        return float(self.facts["battery.capacity_mwh"].value) if "battery.capacity_mwh" in self.facts else None

    @property
    def micro(self) -> bool:
        """Whether it is a microcontroller: int8 models under TFLite Micro."""
        return self.runtime == MICRO


def names() -> list[str]:
    """The names of the profiles that come with edgeprune, sorted."""
    return sorted(entry.name.removesuffix(".toml") for entry in resource("profiles").iterdir() if entry.name.endswith(".toml"))


def load(name: str | Path) -> Profile:
    """The profile called ``name``, or the one in the user's own TOML file of that path.

    Raises :class:`ProfileError`: an unknown name (lists the known ones), a malformed file (names the file, the key and what is expected).
    """
    path = Path(name)
    if path.suffix == ".toml":
        if not path.is_file():
            raise ProfileError(f"profile {path} does not exist", remedy=suggest(path.stem, names(), "profiles"))
        text, where = path.read_bytes(), str(path)
    elif str(name) in names():
        text, where = resource("profiles", f"{name}.toml").read_bytes(), f"{name}.toml"
    else:
        remedy = f"{suggest(name, names(), 'profiles')} Or give the path of your own TOML file."
        raise ProfileError(f"unknown profile {str(name)!r}", remedy=remedy)
    try:
        return _profile(tomllib.loads(text.decode()), where)
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, and deep nesting, too
        raise ProfileError(f"profile {where} is not TOML: {error}") from error


def match(info: Any) -> str | None:
    """The name of the profile that describes a probed device, or None.

    ``info`` has ``board`` (the device tree's model, "" if unknown), ``cpu`` (core names), ``arch``, ``cores`` and ``memory_bytes``.
    The board decides where the device states one; else processor, number of cores and memory together.
    """
    for name in names():
        if _matches(load(name), info):
            return name
    return None


def _matches(profile: Profile, info: Any) -> bool:
    if info.board:
        return any(str(info.board).casefold().startswith(board.casefold()) for board in profile.match.boards)
    limit = profile.match.max_memory_bytes
    return (
        profile.match.by_cpu
        and info.arch == profile.cpu.architecture
        and info.cores == profile.cpu.cores
        and set(str(info.cpu).split(" + ")) == set(profile.cpu.core.split(" + "))
        and (limit is None or info.memory_bytes <= limit)
    )


def _profile(document: Mapping[str, Any], where: str) -> Profile:
    head = _head(document, where)
    facts: dict[str, Fact] = {}
    for key, entry in _entries(document, "", where):
        if key not in SCHEMA:
            raise ProfileError(f"profile {where}: unknown key {key}", remedy=suggest(key, SCHEMA, "keys"))
        facts[key] = _fact(key, entry, where)
    spared = _spared(facts)
    for key, (unit, required) in SCHEMA.items():
        if required and key not in facts and not key.startswith(spared):
            raise ProfileError(f"profile {where}: {key} is missing", remedy=f"Expected {_expected(unit)}.")
    if "power." not in spared and float(facts["power.active_w"].value) < float(facts["power.idle_w"].value):
        raise ProfileError(
            f"profile {where}: power.active_w is less than power.idle_w",
            remedy="The active power includes the idle power: give at least that.",
        )
    values: dict[str, Any] = {key: int(fact.value) if fact.unit in _WHOLE else fact.value for key, fact in facts.items()}
    prior = (
        Prior(
            runtime=values["prior.runtime"],
            threads=values["prior.threads"],
            macs_per_s={kind: values[f"prior.macs_per_s.{kind}"] for kind in KINDS},
            bytes_per_s=values["prior.bytes_per_s"],
            kernel_overhead_ms=values["prior.kernel_overhead_ms"],
            channel_step=values["prior.channel_step"],
        )
        if "prior." not in spared
        else None
    )
    return Profile(
        name=head.name,
        title=head.title,
        cpu=Cpu(values["cpu.architecture"], values["cpu.core"], values["cpu.cores"], values.get("cpu.clock_hz")),
        memory=Memory(values.get("memory.bytes"), values.get("memory.bandwidth_bytes_per_s"), values.get("memory.flash_bytes")),
        prior=prior,
        power=Power(*(values[f"power.{name}"] for name in Power.__dataclass_fields__)) if "power." not in spared else None,
        match=head.match,
        facts=facts,
    )


def _spared(facts: Mapping[str, Fact]) -> tuple[str, ...]:
    """The tables that a microcontroller's profile leaves out altogether."""
    micro = "runtime" in facts and facts["runtime"].value == MICRO
    return tuple(table for table in ("prior.", "power.") if micro and not any(key.startswith(table) for key in facts))


def _entries(table: Mapping[str, Any], prefix: str, where: str) -> list[tuple[str, Any]]:
    """(dotted key, fact table) for all but name, title and match."""
    found: list[tuple[str, Any]] = []
    for name, entry in table.items():
        key = f"{prefix}{name}"
        if key in ("name", "title", "match"):
            continue
        if key in _TABLES and isinstance(entry, Mapping):
            found += _entries(entry, f"{key}.", where)
        else:
            found.append((key, entry))
    return found


def _expected(unit: str) -> str:
    if not unit:
        return '{ value = "text", source = "where it is from" }'
    number = "whole number" if unit in _WHOLE else "number"
    return f'{{ value = {number}, unit = "{unit}", source = "where it is from" }}, the value not negative'


@dataclass(frozen=True)
class _Stated:
    """A fact as a file states it."""

    value: Any = None
    unit: str = ""
    source: str = ""


@dataclass(frozen=True)
class _Head:
    """What a file says beside its facts."""

    name: str = ""
    title: str = ""
    match: Match = Match()


def _head(document: Mapping[str, Any], where: str) -> _Head:
    try:
        head = convert(document, _Head, finite=False)
        if unknown := unknown_field(document.get("match", {}), Match):
            raise ValueError(f"the unknown entry `match.{unknown}`")
    except ValueError as error:
        expected = 'boards = ["start of the device tree\'s model"], and optionally by_cpu = true, max_memory_bytes = whole number'
        raise ProfileError(
            f"profile {where}: {error}", remedy=f'Expected name = "text", title = "text", and in [match] {expected}.'
        ) from error
    for key in ("name", "title"):
        if not getattr(head, key):
            raise ProfileError(f"profile {where}: {key} is missing", remedy=f'Expected {key} = "text".')
    if not all(head.match.boards):
        raise ProfileError(f"profile {where}: match.boards has an empty text", remedy="It would match every board: remove it.")
    return head


def _fact(key: str, entry: Any, where: str) -> Fact:
    unit = SCHEMA[key][0]

    def bad(why: str) -> ProfileError:
        return ProfileError(f"profile {where}: {key} {why}", remedy=f"Expected {_expected(unit)}.")

    try:
        stated = convert(entry, _Stated, finite=False)
    except ValueError as error:
        raise bad(f"cannot be read: {error}") from error
    if unknown := unknown_field(entry, _Stated):
        raise bad(f"has the unknown entry {unknown}")
    value, source = stated.value, stated.source
    if not source.strip():
        raise bad("has no source")
    if stated.unit != unit:
        raise bad(f"has the unit {stated.unit!r}")
    if not unit:
        if not isinstance(value, str) or not value:
            raise bad(f"has the value {value!r}, not a text")
        return Fact(value, unit, source)
    numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
    positive_needed = key != "prior.kernel_overhead_ms" and not key.startswith("power.")
    if not numeric or not 0 <= value < float("inf") or (value == 0 and positive_needed):
        raise bad(f"has the value {value!r}, not a {'positive ' if positive_needed else ''}number")
    if unit in _WHOLE and value != int(value):
        raise bad(f"has the value {value!r}, not a whole number")
    return Fact(value, unit, source)
