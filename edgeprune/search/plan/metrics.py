"""The metrics of one model that budgets limit: predicted or measured, and compared with the budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from edgeprune.bench import Measurement
from edgeprune.budget import FIGURES, Budget, Limit
from edgeprune.search.measure.paired import PairedMeasurement


@dataclass(frozen=True)
class ModelMetrics:
    """Of one model, predicted or measured: latency (ms), peak memory (bytes; None where a device does not report it), energy (mJ), file
    (bytes); and counted: multiply-accumulates, parameters."""

    latency_ms: float
    peak_bytes: float | None
    energy_mj: float
    file_bytes: float
    macs: float
    parameters: float

    def of(self, kind: str) -> float | None:
        """The figure that a budget of ``kind`` limits."""
        value: float | None = getattr(self, FIGURES[kind])
        return value

    def predicted(self, kind: str) -> float:
        """:meth:`of` for predictions, which know every figure."""
        return float(getattr(self, FIGURES[kind]))

    def as_measured(self, measured: Measurement) -> ModelMetrics:
        """With what was measured of it; the file, what is counted, and energy without a meter stay."""
        energy = self.energy_mj if measured.energy_mj is None else measured.energy_mj
        return replace(self, latency_ms=measured.latency_ms, peak_bytes=measured.peak_bytes, energy_mj=energy)


def resolved(budget: Budget, dense: ModelMetrics) -> dict[str, float]:
    """Every limit in its unit, percentages taken of the dense model's figures."""
    limits = {}
    for kind, limit in budget.limits().items():
        value = dense.of(kind)
        limits[kind] = limit.resolve(value if value is not None else 0.0)
    return limits


def measured_metrics(pair: PairedMeasurement, dense_ms: float, limit: Limit | None, predicted: ModelMetrics) -> ModelMetrics:
    """What ``pair`` measured, in the terms budgets are judged in.

    Under a relative latency budget the interleaved ratio counts (times the dense model's latency); under an absolute one the median itself,
    but of a board among several, where the ratio is what holds for all of them.
    """
    own = limit is not None and not limit.relative and pair.board is None
    latency = pair.model.latency_ms if own else pair.ratio * dense_ms
    energy = pair.model.energy_mj if pair.model.energy_mj is not None else predicted.energy_mj
    return ModelMetrics(latency, pair.model.peak_bytes, energy, pair.model.file_bytes, predicted.macs, predicted.parameters)


def budget_utilization(metrics: ModelMetrics, limits: Mapping[str, float]) -> float:
    """The largest share of any limit that ``metrics`` take; at most 1 when all are met."""
    shares = [value / limit for kind, limit in limits.items() if (value := metrics.of(kind)) is not None]
    return max(shares, default=0.0)
