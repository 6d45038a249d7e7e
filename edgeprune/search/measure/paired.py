"""What a measurement of a candidate says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from edgeprune.bench import Measurement
from edgeprune.bench.consistency import check_ratio
from edgeprune.bench.intervals import trimmed_interval
from edgeprune.decode import JsonObject, convert
from edgeprune.errors import InputError

CLEAR_OF_LIMIT = "clear of the limit"
"""What the runner says where a comparison ended at ``BenchOptions.stop_at``."""


@dataclass(frozen=True)
class PairedMeasurement:
    """A model measured in turns with the dense one: ``ratio`` of latencies with its interval, and both measurements.  ``log_ratios``: the
    logarithms of the rounds' ratios that it is made of; none of a predicted one. ``board``: which of several devices measured it, where any
    of them might have: what its latencies say of the others is their ratio."""

    ratio: float
    low: float
    high: float
    dense: Measurement
    model: Measurement
    log_ratios: tuple[float, ...] = ()
    board: str | None = None

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
        """What the rounds of both sessions make."""
        log_ratios = self.log_ratios + more.log_ratios
        dense, model = self.dense.together(more.dense), self.model.together(more.model)
        return PairedMeasurement(*trimmed_interval(log_ratios), dense, model, log_ratios)

    def to_json(self) -> JsonObject:
        """Plain values."""
        return asdict(self) | {"dense": self.dense.to_json(), "model": self.model.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> PairedMeasurement:
        """What :meth:`to_json` wrote.  Raises :class:`InputError` when it is damaged or cannot be true."""
        try:
            stored = convert(dict(data), _Stored)
            if not 0 < stored.low <= stored.ratio <= stored.high:
                raise ValueError(f"the ratio {stored.ratio:.6g} is not inside its interval, {stored.low:.6g} to {stored.high:.6g}")
            if stored.log_ratios:
                check_ratio(stored.ratio, stored.low, stored.high, stored.log_ratios)
        except ValueError as error:
            raise InputError(f"this is not a measurement of a pair: {error}") from error
        dense, model = Measurement.from_json(stored.dense), Measurement.from_json(stored.model)
        return cls(stored.ratio, stored.low, stored.high, dense, model, stored.log_ratios, stored.board)


@dataclass(frozen=True)
class _Stored:
    ratio: float
    low: float
    high: float
    dense: JsonObject
    model: JsonObject
    log_ratios: tuple[float, ...] = ()
    board: str | None = None
