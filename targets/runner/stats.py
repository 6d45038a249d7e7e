"""Medians and their confidence intervals, without assumptions on the distribution."""

from __future__ import annotations

import math
from typing import List, Sequence, Tuple

# Student's t, 97.5 % quantile by degrees of freedom 1..30 (standard table)
_T975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131),
    *(2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


def quantile(values: Sequence[float], share: float) -> float:
    """The ``share`` quantile (0..1), interpolated between the two nearest values."""
    ordered = sorted(values)
    position = (len(ordered) - 1) * share
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def median(values: Sequence[float]) -> float:
    """The middle value."""
    return quantile(values, 0.5)


def _rank(count: int) -> int:
    """The largest k with P(Binomial(count, 1/2) < k) <= 2.5 %; 0 when there is none (fewer than 6 values)."""
    if count > 1000:
        return math.floor(count / 2 - 0.98 * math.sqrt(count))
    total, k = 0.0, 0
    while True:
        total += math.comb(count, k) / 2**count
        if total > 0.025:
            return k
        k += 1


def median_interval(values: Sequence[float]) -> Tuple[float, float]:
    """A 95 % confidence interval of the median from order statistics (Hahn & Meeker, "Statistical Intervals", 5.2).

    With fewer than 6 values no such interval exists; the smallest and the largest value are returned.
    """
    ordered = sorted(values)
    k = max(1, _rank(len(ordered)))
    return ordered[k - 1], ordered[len(ordered) - k]


def mean_interval(values: Sequence[float]) -> Tuple[float, float, float]:
    """Mean and its 95 % confidence interval by Student's t; infinitely wide for a single value, and around 0 for none."""
    count = len(values)
    mean = sum(values) / count if count else 0.0
    if count < 2:
        return mean, -math.inf, math.inf
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1))
    t = _T975[count - 2] if count - 1 <= len(_T975) else 1.96 + 2.5 / (count - 1)
    half = t * deviation / math.sqrt(count)
    return mean, mean - half, mean + half


def relative_width(low: float, high: float, middle: float) -> float:
    """Width of an interval as a share of its middle."""
    return (high - low) / middle if middle > 0 else math.inf


def summary(samples: List[int], blocks: List[List[int]]) -> dict:
    """Figures of one model in ns: median, p90, p99, and the interval of the median from the blocks' medians.

    Neighbouring samples are correlated; the medians of blocks much less so, hence the interval is theirs.
    """
    low, high = median_interval([median(block) for block in blocks])
    middle = median(samples)
    return {
        "median_ns": middle,
        "low_ns": min(low, middle),
        "high_ns": max(high, middle),
        "p90_ns": quantile(samples, 0.9),
        "p99_ns": quantile(samples, 0.99),
        "samples_ns": samples,
    }
