"""Comparing results that were measured in different sessions."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeprune.bench.advice import is_busy
from edgeprune.bench.history import Entry, History
from edgeprune.bench.results import Measurement, Ratio, Verdict, comparable, differences
from edgeprune.budget import counted
from edgeprune.decode import JsonObject, convert
from edgeprune.errors import InputError
from edgeprune.files import parse_json

_TO_99 = 2.576 / 1.960  # half-widths of a normal's 99 % and 95 % intervals
_LEAST_FREEDOM = _ASSUMED_FREEDOM = 5  # heavy tails for what is assumed: it was learned on another machine
_LEAST_DEVIATION = 0.005  # sessions of one afternoon lie closer together than those of a month
_LEAST_RUNS = 6  # the median of fewer has no 95 % interval (Hahn & Meeker, "Statistical Intervals", 5.2)


@dataclass(frozen=True)
class Spread:
    """How far medians of one model lie apart from session to session: the standard deviation of their logarithms.

    ``freedom``: degrees of freedom of that estimate; None for what is simply assumed.
    """

    deviation: float
    freedom: int | None = None

    @property
    def half_width(self) -> float:
        """Of the 99 % interval of the difference of two medians' logarithms, by Student's t."""
        from scipy.stats import t

        freedom = _ASSUMED_FREEDOM if self.freedom is None else self.freedom
        return float(t.ppf(0.995, freedom)) * math.sqrt(2) * self.deviation

    def __str__(self) -> str:
        return f"{self.deviation:.1%} from session to session, " + (
            "assumed" if self.freedom is None else f"known from {self.freedom + 1} results and more"
        )


ASSUMED = Spread(0.022)
"""Measured by ``benchmarks/sessions.py``: four models in 12 sessions each, on a busy x86 virtual machine of two cores."""


def known_spread(groups: Iterable[Sequence[float]]) -> Spread:
    """The pooled spread of latencies, each group of one model in the same circumstances; :data:`ASSUMED` when there are too few."""
    logs = [[math.log(value) for value in group if value > 0] for group in groups]
    freedom = sum(len(group) - 1 for group in logs if group)
    if freedom < _LEAST_FREEDOM:
        return ASSUMED
    squares = sum(statistics.variance(group) * (len(group) - 1) for group in logs if len(group) > 1)
    return Spread(max(math.sqrt(squares / freedom), _LEAST_DEVIATION), freedom)


@dataclass(frozen=True)
class Change:
    """From measurement ``a`` to ``b``: the ratio of their latencies, and in what their circumstances differ (only when forced)."""

    a: Measurement
    b: Measurement
    ratio: Ratio
    spread: Spread
    differences: dict[str, tuple[object, object]]

    def to_json(self) -> JsonObject:
        """As plain JSON values."""
        return {
            "a": self.a.to_json(),
            "b": self.b.to_json(),
            "latency": {"ratio": self.ratio.ratio, "low": self.ratio.low, "high": self.ratio.high, "verdict": self.ratio.verdict},
            "session_spread": {"deviation": self.spread.deviation, "freedom": self.spread.freedom},
            "peak_bytes_ratio": self.b.peak_bytes / self.a.peak_bytes if self.a.peak_bytes else None,
            "file_bytes_ratio": self.b.file_bytes / self.a.file_bytes if self.a.file_bytes else None,
            "energy_ratio": self.b.energy_mj / self.a.energy_mj if self.a.energy_mj and self.b.energy_mj else None,
            "differences": {what: list(pair) for what, pair in self.differences.items()},
        }


def between_sessions(a: Measurement, b: Measurement, force: bool = False, spread: Spread = ASSUMED) -> Change:
    """Compare ``b`` with ``a``, which were not measured in turns.

    The ratio's 99 % interval is made of those of the two medians (of the difference of their logarithms, by the variance estimates
    recovery of Donner & Zou, "Closed-form confidence intervals for functions of the normal mean and standard deviation", 2012) and of the
    ``spread`` between sessions: without it every second pair of sessions of the same model is called different.  A median that did not
    settle counts as :func:`decisive_ms` says, and one under :func:`distrust` makes the ratio inconclusive.  Raises
    :class:`~edgeprune.errors.IncomparableError` unless ``force``.
    """
    if not force:
        comparable(a, b)
    return Change(a, b, _ratio(a, b, spread), spread, differences(a, b))


def distrust(item: Measurement) -> str | None:
    """Why a latency can decide nothing by itself: the device was throttled to the end, something else was running (where only the load
    average shows it, see :func:`slowdown`), or it ran too few times; None when it can."""
    if item.unreliable:
        return f"{item.name}: the device was throttled ({', '.join(item.throttled)}) all the time"
    if len(item.samples_ns) < _LEAST_RUNS:
        return f"{item.name}: {counted(len(item.samples_ns), 'run')} {'is' if len(item.samples_ns) == 1 else 'are'} too few for an interval"
    if item.others is None and is_busy(item.before):
        return f"{item.name}: something else was running (load average {item.before['loadavg']:.1f})"
    return None


def slowdown(item: Measurement) -> float:
    """How many times as long the runs took, at most, for what other programs computed meanwhile.

    Their share of the processors' time counts twice: they also take caches, memory bandwidth and the sibling threads of cores.  From half
    of the machine on nothing bounds it.
    """
    taken = 2 * (item.others or 0.0)
    return 1 / (1 - taken) if taken < 1 else math.inf


def decisive_ms(item: Measurement) -> tuple[float, float]:
    """Where the latency of the model alone surely lies: the median's interval; of one that did not settle the middle 80 % of its runs; and
    from there down to what it would be without the work of others."""
    low, high = item.low_ms, item.high_ms
    if not item.stable and len(item.samples_ns) >= _LEAST_RUNS:
        tenths = statistics.quantiles(item.samples_ns, n=10)
        low, high = min(low, tenths[0] / 1e6), max(high, tenths[-1] / 1e6)
    return low / slowdown(item), high


def _ratio(a: Measurement, b: Measurement, spread: Spread) -> Ratio:
    intervals = [decisive_ms(item) for item in (a, b)]
    if distrust(a) or distrust(b) or min(low for low, _ in intervals) <= 0 or not math.isfinite(sum(high for _, high in intervals)):
        return Ratio(b.name, b.latency_ms / a.latency_ms if a.latency_ms else math.nan, 0.0, math.inf, "inconclusive")

    def logs(item: Measurement, low: float, high: float) -> tuple[float, float]:
        return _TO_99 * math.log(item.latency_ms / low), _TO_99 * math.log(high / item.latency_ms)

    (a_down, a_up), (b_down, b_up) = logs(a, *intervals[0]), logs(b, *intervals[1])
    between, middle = spread.half_width, math.log(b.latency_ms / a.latency_ms)
    low, high = (math.exp(middle - math.hypot(b_down, a_up, between)), math.exp(middle + math.hypot(b_up, a_down, between)))
    verdict: Verdict = "faster" if high < 1 else "slower" if low > 1 else Ratio.judge(b.name, math.exp(middle), low, high).verdict
    return Ratio(b.name, math.exp(middle), low, high, verdict)


def load_results(path: Path) -> list[Measurement]:
    """The measurements in what ``bench --json`` printed; of comparisons, the candidates.  Raises :class:`InputError`."""
    try:
        document = convert(parse_json(path.read_bytes()), _Document)
        found = document.measurements or [item.measurements[1] for item in document.comparisons]
        if not found:
            raise ValueError("it has no measurements")
        return [Measurement.from_json(item) for item in found]
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", remedy="Give a file that edgeprune bench --json printed.") from error
    except (ValueError, IndexError, InputError) as error:
        raise InputError(
            f"{path} does not hold a result of one device: {error}", remedy="Write one: edgeprune bench MODEL --json > result.json"
        ) from error


@dataclass(frozen=True)
class _Pair:
    measurements: list[JsonObject]


@dataclass(frozen=True)
class _Document:
    measurements: list[JsonObject]
    comparisons: list[_Pair]


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


def compare_results(a: list[Measurement], b: list[Measurement], history: History | None = None, force: bool = False) -> list[Change]:
    """Compare what two references name, for each thread count that both have; two single results whatever theirs are.

    The spread between sessions is taken from the history, where that knows enough of the device.
    """
    pairs = [(one, other) for one in a for other in b if one.threads == other.threads]
    if len(a) == len(b) == 1 or not pairs:
        pairs = [(a[0], b[0])]
    return [between_sessions(one, other, force, spread_of(other, history)) for one, other in pairs]


def spread_of(measurement: Measurement, history: History | None) -> Spread:
    """How far sessions on this device in these circumstances lie apart, from what is stored."""
    return ASSUMED if history is None else known_spread(history.repeats(measurement))


def baseline_for(measurement: Measurement, model: str, reference: str, history: History | None) -> Measurement:
    """The earlier result to judge a new one by: of the same device and thread count, and for ``latest`` of the same model's file name."""
    if is_file(reference):
        found = load_results(Path(reference))
        return next((item for item in found if item.threads == measurement.threads), found[0])
    entry: Entry = stored(history).find(reference, model=model, device=measurement.device, threads=measurement.threads)
    return entry.measurement
