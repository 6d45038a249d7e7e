"""A run's measurement is believed where its samples make its figures, and where its record is as the run wrote it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from edgeprune.bench import Measurement
from edgeprune.bench.consistency import check_ratio
from edgeprune.decode import JsonObject, convert
from edgeprune.errors import EvidenceError
from edgeprune.release.bundle.samples import difference
from edgeprune.runs.directory import record_sha256
from edgeprune.runs.finished import Exported, FinishedRun, Record
from edgeprune.runs.summary import RatioSummary

MEASURE_AGAIN: Final = "Measure the file again: edgeprune bench, then --evidence with the result's number."


def check_record(run: FinishedRun, exported: Exported, record: Record, measured: Measurement | None = None) -> None:
    """Check the record of an exported file's measurement.

    ``measured``: what the record holds, whose figures have been checked by its samples; None of a microcontroller's arena. Raises
    :class:`EvidenceError` naming the run, and the figure with both values where one differs.
    """
    try:
        if measured is not None:
            _check_figures(run, record, measured)
        if exported.record_sha256 not in (None, record_sha256(record.value)):
            raise ValueError(f"the record {record.key} in measurements.jsonl was changed after the run")
    except ValueError as error:
        raise not_believed(run, exported, error) from error


def not_believed(run: FinishedRun, exported: Exported, reason: Exception) -> EvidenceError:
    """The error for a measurement that cannot be true."""
    return EvidenceError(f"the measurement of {exported.path.name} in {run.path} is invalid: {reason}", remedy=MEASURE_AGAIN)


def _check_figures(run: FinishedRun, record: Record, measured: Measurement) -> None:
    if not measured.windows:
        raise ValueError("it has no raw samples that its figures can be computed from")
    if "ratio" in record.value:
        _check_ratio(run, record.value)
    shown = run.result.pruned
    names = [name for name in ("latency_ms", "low_ms", "high_ms", "peak_bytes") if getattr(shown, name) is not None]
    if measured.energy_mj is not None and shown.energy_mj is not None:  # without a meter it is predicted
        names.append("energy_mj")
    if found := difference(measured, shown, names):
        raise ValueError("{} is {}, and run.json says {}".format(*found))


@dataclass(frozen=True)
class _Part:
    """What another board measured: see :class:`_Ratio`."""

    log_ratios: list[float]


@dataclass(frozen=True)
class _Ratio:
    """Of a record of a pair: the ratio of its latencies, and the logarithms of the rounds' ratios that it is made of; ``beside``:
    those that other boards measured."""

    ratio: float
    low: float
    high: float
    log_ratios: list[float] = field(default_factory=list)
    beside: list[_Part] = field(default_factory=list)


def _check_ratio(run: FinishedRun, pair: JsonObject) -> None:
    found = convert(pair, _Ratio)
    check_ratio(found.ratio, found.low, found.high, found.log_ratios, *(one.log_ratios for one in found.beside))
    shown = run.result.ratio or RatioSummary()
    for name, value, other in (("ratio", found.ratio, shown.value), ("low", found.low, shown.low), ("high", found.high, shown.high)):
        if other not in (None, value):
            raise ValueError(f"{name} is {value}, and run.json says {other}")
