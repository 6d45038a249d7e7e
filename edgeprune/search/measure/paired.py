"""What a measurement of a candidate says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

from edgeprune.bench import Measurement
from edgeprune.bench.consistency import check_ratio
from edgeprune.bench.intervals import stratified_interval
from edgeprune.decode import JsonObject, convert
from edgeprune.errors import InputError

CLEAR_OF_LIMIT = "clear of the limit"
"""What the runner says where a comparison ended at ``BenchOptions.stop_at``."""


@dataclass(frozen=True)
class Part:
    """What one board measured of a pair: both models, and the logarithms of its rounds' ratios."""

    dense: Measurement
    model: Measurement
    log_ratios: tuple[float, ...]

    def together(self, more: Part) -> Part:
        """What the same board's rounds make."""
        return Part(self.dense.together(more.dense), self.model.together(more.model), self.log_ratios + more.log_ratios)

    def to_json(self) -> JsonObject:
        """Plain values."""
        return {"dense": self.dense.to_json(), "model": self.model.to_json(), "log_ratios": list(self.log_ratios)}


@dataclass(frozen=True)
class PairedMeasurement:
    """A model measured in turns with the dense one: ``ratio`` of latencies with its interval, and both measurements.  ``log_ratios``: the
    logarithms of the rounds' ratios that it is made of; none of a predicted one. ``board``: which of several devices measured it, where any
    of them might have: what its latencies say of the others is their ratio. ``beside``: the rounds of other boards, where several shared
    them; the ratio is made of all, and ``board`` names all, the one whose measurements these are first."""

    ratio: float
    low: float
    high: float
    dense: Measurement
    model: Measurement
    log_ratios: tuple[float, ...] = ()
    board: str | None = None
    beside: tuple[Part, ...] = ()

    @classmethod
    def of(cls, parts: Sequence[Part], board: str | None = None) -> PairedMeasurement:
        """What the rounds of several boards make; the latencies are the first one's."""
        first, *beside = parts
        made = stratified_interval([part.log_ratios for part in parts])
        return cls(*made, first.dense, first.model, first.log_ratios, board, tuple(beside))

    @property
    def parts(self) -> tuple[Part, ...]:
        """By board what it measured."""
        return (Part(self.dense, self.model, self.log_ratios), *self.beside)

    @property
    def rounds(self) -> int:
        """Of all boards."""
        return sum(len(part.log_ratios) for part in self.parts)

    def measures(self, kind: str) -> bool:
        """Whether the session measured what a limit of ``kind`` is about; else it is counted or predicted."""
        if kind == "latency":
            return bool(self.model.samples_ns)
        return self.model.energy_mj is not None if kind == "energy" else kind in ("memory", "size")

    @property
    def stopped_early(self) -> bool:
        """Whether rounds ended because they told the ratio from a limit: its interval may be wide."""
        return self.model.stop_reason == CLEAR_OF_LIMIT

    def together(self, more: PairedMeasurement) -> PairedMeasurement:
        """What the rounds of both sessions make, by board."""
        return PairedMeasurement.of(by_board((*self.parts, *more.parts)))

    def to_json(self) -> JsonObject:
        """Plain values."""
        known: JsonObject = {"ratio": self.ratio, "low": self.low, "high": self.high}
        shared: JsonObject = {"beside": [part.to_json() for part in self.beside]} if self.beside else {}
        return known | Part(self.dense, self.model, self.log_ratios).to_json() | {"board": self.board} | shared

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> PairedMeasurement:
        """What :meth:`to_json` wrote.  Raises :class:`InputError` when it is damaged or cannot be true."""
        try:
            stored = convert(dict(data), _Stored)
            if not 0 < stored.low <= stored.ratio <= stored.high:
                raise ValueError(f"the ratio {stored.ratio:.6g} is not inside its interval, {stored.low:.6g} to {stored.high:.6g}")
            if stored.log_ratios:
                check_ratio(stored.ratio, stored.low, stored.high, stored.log_ratios, *(part.log_ratios for part in stored.beside))
        except ValueError as error:
            raise InputError(f"this is not a measurement of a pair: {error}") from error
        given: list[_Stored | _StoredPart] = [stored, *stored.beside]
        first, *beside = [Part(Measurement.from_json(one.dense), Measurement.from_json(one.model), one.log_ratios) for one in given]
        made = stored.ratio, stored.low, stored.high
        return cls(*made, first.dense, first.model, first.log_ratios, stored.board, tuple(beside))


def by_board(rounds: Iterable[Part]) -> list[Part]:
    """Rounds of one pair joined by the board that measured them, in the order of its first."""
    found: dict[str, list[Part]] = {}
    for one in rounds:
        found.setdefault(one.model.device, []).append(one)
    return [reduce(Part.together, parts) for parts in found.values()]


@dataclass(frozen=True)
class _StoredPart:
    dense: JsonObject
    model: JsonObject
    log_ratios: tuple[float, ...] = ()


@dataclass(frozen=True)
class _Stored:
    ratio: float
    low: float
    high: float
    dense: JsonObject
    model: JsonObject
    log_ratios: tuple[float, ...] = ()
    board: str | None = None
    beside: tuple[_StoredPart, ...] = ()
