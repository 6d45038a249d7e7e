"""Quantities with units, and the budget they make up."""

from __future__ import annotations

import math
import re
from dataclasses import InitVar, dataclass, fields
from typing import Final

from edgeprune.errors import BudgetError, suggest

_NUMBER = re.compile(r"\s*([-+]?(?:[0-9]*\.?[0-9]+(?:e[-+]?[0-9]+)?|nan|inf(?:inity)?))\s*([^\d\s]*)\s*", re.ASCII | re.IGNORECASE)

FIGURES: Final = {
    "latency": "latency_ms",
    "memory": "peak_bytes",
    "energy": "energy_mj",
    "size": "file_bytes",
    "macs": "macs",
    "parameters": "parameters",
}
"""For every kind of limit the name of the figure that it limits."""

COUNTED: Final = ("macs", "parameters")
"""Kinds that are counted, not measured."""

# factors to the base unit of each kind: milliseconds, bytes, millijoules, one
_UNITS: Final[dict[str, dict[str, float]]] = {
    "latency": {"ns": 1e-6, "us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3},
    "memory": {
        **{"b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30},
        **{"k": 1e3, "m": 1e6, "g": 1e9, "ki": 2**10, "mi": 2**20, "gi": 2**30},
    },
    "energy": {"nj": 1e-6, "uj": 1e-3, "µj": 1e-3, "mj": 1.0, "j": 1e3},
}
_UNITS["size"] = _UNITS["memory"]
_UNITS["macs"] = _UNITS["parameters"] = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9}
_EXAMPLES: Final = {"latency": "15ms", "memory": "20MB", "energy": "40mJ", "size": "1MB", "macs": "40M", "parameters": "300k"}


@dataclass(frozen=True)
class Limit:
    """An upper limit: ``value`` in the kind's base unit (ms, bytes, mJ, one), or a fraction of the dense model's value."""

    kind: str
    value: float
    relative: bool

    def resolve(self, dense: float) -> float:
        """The absolute limit, given the dense model's value in the same unit."""
        return self.value * dense if self.relative else self.value

    def __str__(self) -> str:
        return f"{self.value:.4g} of dense" if self.relative else format_quantity(self.kind, self.value)


def parse_limit(kind: str, text: str) -> Limit:
    """Parse ``15ms``, ``20MB``, ``40mJ``, ``40M`` or ``50%`` into a :class:`Limit` of ``kind``: latency, memory, energy, size, macs,
    parameters.

    Bytes may be written 20M, 20MB (millions) and 20Mi, 20MiB (2**20).  Raises :class:`BudgetError` when the unit is missing or of another
    kind, or the value is not a positive number.
    """
    units = _UNITS[kind]
    example = _EXAMPLES[kind]
    match = _NUMBER.fullmatch(text) if isinstance(text, str) else None
    if not match:
        raise BudgetError(f"{kind} {text!r} is not a quantity", remedy=f"Write a number with a unit: {example}, or 50% of the dense model.")
    number, unit = float(match[1]), match[2]
    if not 0 < number < math.inf:
        wrong = "must be greater than zero" if number <= 0 else "is not a finite number"
        raise BudgetError(
            f"{kind} {text!r} {wrong}", remedy=f"Write for example {example}, or 50% of the dense model; leave out what is not limited."
        )
    if not unit and "" not in units:
        raise BudgetError(f"{kind} {text!r} has no unit", remedy=f"Write for example {example}, or {match[1]}% of the dense model.")
    if unit != "%" and unit.lower() not in units:
        remedy = suggest(unit, [*filter(None, units), "%"], f"units of {kind}")
        raise BudgetError(f"{kind} {text!r} has the unknown unit {unit!r}", remedy=remedy)
    if unit == "%":
        return Limit(kind, number / 100, relative=True)
    return Limit(kind, number * units[unit.lower()], relative=False)


_PERIODS: Final = {"s": 1e3, "min": 6e4, "h": 3.6e6}
"""Milliseconds in what a throughput is told by."""

_RATE: Final = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*(?:/\s*(s|min|h)|(%))\s*", re.ASCII | re.IGNORECASE)


def latency_for(throughput: str) -> str:
    """The latency limit that keeps up a ``throughput``: ``200/s`` (``/min``, ``/h``) is ``5ms``, ``200%`` of the dense model's ``50%``.

    Inferences run one after the other, a single one at a time on all threads: nothing is gained from batches or from several models side by
    side.  Raises :class:`BudgetError` for what is not such a rate.
    """
    match = _RATE.fullmatch(throughput) if isinstance(throughput, str) else None
    number = float(match[1]) if match else 0.0
    if match is None or number <= 0:
        raise BudgetError(
            f"throughput {throughput!r} is not a number of inferences in a time, greater than zero",
            remedy="Write for example 200/s, 600/min, or 150% of the dense model.",
        )
    most = 1e4 / number if match[3] else _PERIODS[match[2].lower()] / number
    digits = 6 - 1 - math.floor(math.log10(most))
    return f"{math.floor(most * 10.0**digits * (1 + 1e-12)) / 10.0**digits:.6g}{'%' if match[3] else 'ms'}"


@dataclass(frozen=True)
class Budget:
    """Upper limits that the pruned model must be measured to meet.

    Each limit is a quantity with a unit (``"15ms"``, ``"20MB"``, ``"40mJ"``, ``"40M"`` multiply-accumulates or parameters, which are
    counted), or a percentage of the dense model (``"50%"``) as measured in the same session. ``None`` sets no limit.
    ``max_drop``: the largest allowed loss of the task's metric, in the metric's own units. ``throughput``: ``"200/s"``, another way to
    write ``latency``, see :func:`latency_for`; only one of them can be given.
    """

    latency: str | None = None
    memory: str | None = None
    energy: str | None = None
    size: str | None = None
    macs: str | None = None
    parameters: str | None = None
    max_drop: float | None = None
    throughput: InitVar[str | None] = None

    def __post_init__(self, throughput: str | None) -> None:
        if throughput is not None:
            self._take(throughput)
        self.limits()
        if self.max_drop is not None and not (isinstance(self.max_drop, (int, float)) and 0 <= self.max_drop < math.inf):
            raise BudgetError(
                f"max_drop {self.max_drop!r} must be a number, zero or greater", remedy="Give it in the metric's own units, such as 0.5."
            )

    def _take(self, throughput: str) -> None:
        latency = latency_for(throughput)
        if self.latency is not None:
            raise BudgetError(
                f"throughput {throughput} and latency {self.latency} limit the same figure",
                remedy=f"Give one of them: inferences run one after the other, and this throughput is a latency of {latency}.",
            )
        object.__setattr__(self, "latency", latency)

    def limits(self) -> dict[str, Limit]:
        """The limits that are set, by kind.  Raises :class:`BudgetError` on a malformed one."""
        texts = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "max_drop"}
        return {kind: parse_limit(kind, text) for kind, text in texts.items() if text is not None}


def format_quantity(kind: str, value: float) -> str:
    """A value in the kind's base unit (ms, bytes, mJ, one) as a person reads it; NaN is not known."""
    if value != value:
        return "not known"
    if kind in ("memory", "size"):
        for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
            if abs(value) >= factor:
                return f"{value / factor:.3g} {unit}" if abs(value) < 100 * factor else f"{value / factor:.0f} {unit}"
        return f"{value:.0f} B"
    if kind in COUNTED:
        for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
            if abs(value) >= factor:
                return f"{value / factor:.3g} {unit}"
        return f"{value:.0f}"
    small, base, large = {"latency": ("µs", "ms", "s"), "energy": ("µJ", "mJ", "J")}[kind]
    if abs(value) >= 1e3:
        return f"{value / 1e3:.3g} {large}"
    return f"{value:.3g} {base}" if abs(value) >= 1 or value == 0 else f"{value * 1e3:.3g} {small}"


def format_score(value: float, error: float | None, unit: str = "") -> str:
    """A score for people, with its standard error and its unit: ``91.2 ± 0.4 %``."""
    if error is None:
        return f"{format_metric(value)} {unit}".rstrip()
    place = math.floor(math.log10(error)) if error > 0 else -2
    digits = max(0, -place + (error > 0 and error < 2 * 10.0**place))  # one digit of the error, two where the first is a 1
    return f"{value:.{digits}f} ± {error:.{digits}f} {unit}".rstrip()


def counted(number: int, noun: str) -> str:
    """How many there are of something, as a person says it: "1 file", "2,000 files"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def format_metric(value: float, size: float | None = None, sign: str = "") -> str:
    """A score for people: two decimals of percentages and the like, four digits of what is smaller.  A difference is written as scores
    of that ``size`` are, and with a ``sign`` of "+" always with one."""
    large = abs(value if size is None else size) >= 10 or value == 0
    return format(value, f"{sign}{'.2f' if large else '.4g'}")
