"""Whether a measurement can be true: of a device's answer, and of every result that was stored, when it is read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from edgeprune.bench.conditions import Conditions
from edgeprune.bench.intervals import median_ranks, stratified_interval
from edgeprune.decode import convert

_LARGEST = 2**62
"""Of a size in bytes or a time in ns: what a database holds."""
_CLOSE = 1e-6
_RANK_SLACK = 0.02  # the runner's table of Student's t has three decimals
_RATIO_SLACK = 1e-3  # for the same reason


def check(item: Any) -> None:
    """Raise :class:`ValueError` where figures of a :class:`~edgeprune.bench.results.Measurement` are not finite, not positive, out of
    order, or not what its raw samples make."""
    _positive(item)
    _ordered(item)
    if not all(0 <= sample < _LARGEST for sample in item.samples_ns):
        raise ValueError("a sample is negative or impossibly long")
    if item.windows:  # all samples are there
        _samples(item)
    if item.delegated is not None and not 0 <= item.delegated <= 1:
        raise ValueError(f"delegated {item.delegated!r} is not a share")
    convert(item.before, Conditions)
    convert(item.after, Conditions)


def check_ratio(ratio: float, low: float, high: float, *log_ratios: Sequence[float]) -> None:
    """Raise :class:`ValueError` where a ratio and its interval are not what ``log_ratios``, the logarithms of its rounds, make: those of
    each board where several measured it."""
    if not all(log_ratios):
        raise ValueError("the ratio has no rounds")
    for name, claimed, made in zip(("ratio", "low", "high"), (ratio, low, high), stratified_interval(log_ratios), strict=True):
        if claimed != made and not abs(claimed - made) <= _RATIO_SLACK * made:
            raise ValueError(f"{name} is {claimed:.6g}, but its rounds give {made:.6g}")


def _positive(item: Any) -> None:
    above = ("latency_ms", "low_ms", "high_ms", "p90_ms", "p99_ms", "peak_bytes", "rss_peak_bytes", "file_bytes", "threads")
    for name in (*above, "energy_mj"):
        value = getattr(item, name)
        if value is not None and not 0 < value < _LARGEST:
            raise ValueError(f"{name} is {value!r}, which is not a number above zero")
    for name in (
        "load_ms",
        "first_ms",
        "import_ms",
        "cold_ms",
        "warmup_s",
        "sampled_s",
        "weights_bytes",
        "arena_bytes",
        "cooldown_s",
        "others",
    ):
        value = getattr(item, name)
        if value is not None and not 0 <= value < _LARGEST:
            raise ValueError(f"{name} is {value!r}, which is negative or not a number")
    for name in ("drift", "outliers"):
        if not math.isfinite(getattr(item, name)):
            raise ValueError(f"{name} is not finite")


def _ordered(item: Any) -> None:
    for names in (
        ("low_ms", "latency_ms", "high_ms"),
        ("latency_ms", "p90_ms", "p99_ms"),
        ("energy_low_mj", "energy_mj", "energy_high_mj"),
    ):
        known = [(name, value) for name in names if (value := getattr(item, name)) is not None]
        for (one, least), (other, most) in pairwise(known):
            if not least <= most * (1 + _CLOSE):
                raise ValueError(f"{one} {least:.6g} is above {other} {most:.6g}")


def _samples(item: Any) -> None:
    """The median, its interval and the tail are those of the samples."""
    ordered = sorted(item.samples_ns)
    if min(item.windows) < 1 or sum(item.windows) != len(ordered):
        raise ValueError(f"its windows count {sum(item.windows)} samples, but there are {len(ordered)}")
    half = median_ranks(item.samples_ns, item.windows)
    slack = _RANK_SLACK * half + 1e-3 + 1 / len(ordered)
    shares = {"latency_ms": (0.5, 0.5), "p90_ms": (0.9, 0.9), "p99_ms": (0.99, 0.99)}
    shares |= {"low_ms": (0.5 - half - slack, 0.5 - half + slack), "high_ms": (0.5 + half - slack, 0.5 + half + slack)}
    for name, (least, most) in shares.items():
        claimed = getattr(item, name)
        low, high = (_quantile(ordered, min(max(share, 0.0), 1.0)) / 1e6 for share in (least, most))
        if not low - _CLOSE * (low + 1) <= claimed <= high + _CLOSE * (high + 1):
            raise ValueError(f"{name} is {claimed:.6g}, but its samples give {low:.6g}")


def _quantile(ordered: list[int], share: float) -> float:
    position = (len(ordered) - 1) * share
    low = math.floor(position)
    return ordered[low] + (ordered[min(low + 1, len(ordered) - 1)] - ordered[low]) * (position - low)
