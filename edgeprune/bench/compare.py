"""Comparing results that were measured in different sessions."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeprune.bench.history import Entry, History
from edgeprune.bench.results import Measurement, Ratio, comparable, differences
from edgeprune.errors import InputError

_TO_99 = 2.576 / 1.960  # half-widths of a normal's 99 % and 95 % intervals


@dataclass(frozen=True)
class Change:
    """From measurement ``a`` to ``b``: the ratio of their latencies, and in what their circumstances differ (only when forced)."""

    a: Measurement
    b: Measurement
    ratio: Ratio
    differences: dict[str, tuple[Any, Any]]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "a": self.a.to_json(),
            "b": self.b.to_json(),
            "latency": {"ratio": self.ratio.ratio, "low": self.ratio.low, "high": self.ratio.high, "verdict": self.ratio.verdict},
            "peak_bytes_ratio": self.b.peak_bytes / self.a.peak_bytes if self.a.peak_bytes else None,
            "file_bytes_ratio": self.b.file_bytes / self.a.file_bytes if self.a.file_bytes else None,
            "energy_ratio": self.b.energy_mj / self.a.energy_mj if self.a.energy_mj and self.b.energy_mj else None,
            "differences": {what: list(pair) for what, pair in self.differences.items()},
        }


def between_sessions(a: Measurement, b: Measurement, force: bool = False) -> Change:
    """Compare ``b`` with ``a``, which were not measured in turns.

    The ratio's 99 % interval comes from those of the two medians (Donner & Zou, "Closed-form confidence intervals for functions of the
    normal mean and standard deviation", 2012: the variance estimates recovery, here of the difference of logarithms).  What changed
    between the two sessions is not in it: to be sure of a small difference, measure in turns.  Raises
    :class:`~edgeprune.errors.IncomparableError` unless ``force``.
    """
    if not force:
        comparable(a, b)
    return Change(a, b, _ratio(a, b), differences(a, b))


def _ratio(a: Measurement, b: Measurement) -> Ratio:
    if min(a.low_ms, b.low_ms) <= 0 or not math.isfinite(a.high_ms + b.high_ms):
        return Ratio.judge(b.name, b.latency_ms / a.latency_ms if a.latency_ms else math.nan, 0.0, math.inf)

    def logs(item: Measurement) -> tuple[float, float]:
        return math.log(item.latency_ms / item.low_ms), math.log(item.high_ms / item.latency_ms)

    (a_down, a_up), (b_down, b_up) = logs(a), logs(b)
    middle = math.log(b.latency_ms / a.latency_ms)
    low, high = middle - _TO_99 * math.hypot(b_down, a_up), middle + _TO_99 * math.hypot(b_up, a_down)
    return Ratio.judge(b.name, math.exp(middle), math.exp(low), math.exp(high))


def load_results(path: Path) -> list[Measurement]:
    """The measurements in what ``bench --json`` printed; of comparisons, the candidates.  Raises :class:`InputError`."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        found = document["measurements"] or [item["measurements"][1] for item in document["comparisons"]]
        return [Measurement.from_json(item) for item in found]
    except (OSError, UnicodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(f"{path} holds no result of one device", remedy="Write one: edgeprune bench MODEL --json > result.json") from error


def is_file(reference: str) -> bool:
    """Whether a reference names a file of results, not one in the history."""
    return reference.endswith(".json") or "/" in reference


def look_up(reference: str, history: History | None) -> list[Measurement]:
    """The measurements that a reference names: a file, or an id, a label or ``latest~N`` of the history.  Raises :class:`InputError`."""
    if is_file(reference):
        return load_results(Path(reference))
    return [stored(history).find(reference).measurement]


def stored(history: History | None) -> History:
    """The history; raises :class:`InputError` when it is switched off."""
    if history is None:
        raise InputError("the history is switched off", remedy="Name one: --history URL, or unset EDGEPRUNE_HISTORY.")
    return history


def compare_results(a: list[Measurement], b: list[Measurement], force: bool = False) -> list[Change]:
    """Compare what two references name, for each thread count that both have; two single results whatever theirs are."""
    if len(a) == len(b) == 1:
        return [between_sessions(a[0], b[0], force)]
    pairs = [(one, other) for one in a for other in b if one.threads == other.threads] or [(a[0], b[0])]
    return [between_sessions(one, other, force) for one, other in pairs]


def baseline_for(measurement: Measurement, model: str, reference: str, history: History | None) -> Measurement:
    """The earlier result to judge a new one by: of the same device and thread count, and for ``latest`` of the same model's file name."""
    if is_file(reference):
        found = load_results(Path(reference))
        return next((item for item in found if item.threads == measurement.threads), found[0])
    entry: Entry = stored(history).find(reference, model=model, device=measurement.device, threads=measurement.threads)
    return entry.measurement
