"""Medians, ratios and their confidence intervals, without assumptions on the distribution where that can be had."""

from __future__ import annotations

import bisect
import math
from typing import Any, Dict, List, Optional, Sequence, Tuple

# Student's t by degrees of freedom 1..30 (standard table), and what it tends to: quantiles of 97.5 % and 99.5 %
_T975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131),
    *(2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
_T995 = (
    *(63.657, 9.925, 5.841, 4.604, 4.032, 3.707, 3.499, 3.355, 3.250, 3.169, 3.106, 3.055, 3.012, 2.977, 2.947),
    *(2.921, 2.898, 2.878, 2.861, 2.845, 2.831, 2.819, 2.807, 2.797, 2.787, 2.779, 2.771, 2.763, 2.756, 2.750),
)
_TRIM = 0.125
_DRIFT_Z = 2.576
_DRIFT_BLOCKS = 200


def quantile(values: Sequence[float], share: float) -> float:
    """The ``share`` quantile (0..1), interpolated between the two nearest values."""
    return quantile_of(sorted(values), share)


def quantile_of(ordered: Sequence[float], share: float) -> float:
    """The same of values that are in order."""
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


def median_interval(values: Sequence[float], effective: Optional[int] = None) -> Tuple[float, float]:
    """A 95 % confidence interval of the median from order statistics (Hahn & Meeker, "Statistical Intervals", 5.2).

    ``effective``: how many independent values these are worth, see :func:`effective_count`; all of them unless given.  With fewer than 6
    no such interval exists; the smallest and the largest value are returned.
    """
    ordered = sorted(values)
    count = len(ordered)
    worth = min(effective or count, count)
    half = (worth + 1) / 2 - max(1, _rank(worth))
    k = max(1, math.floor((count + 1) / 2 - half * count / worth)) if worth >= 6 else 1
    return ordered[k - 1], ordered[count - k]


def effective_count(values: Sequence[float]) -> int:
    """How many independent values a series of neighbours is worth: n (1 - r) / (1 + r), for their lag-1 correlation r > 0.

    The variance of the mean of a first-order autoregressive series (Priestley, "Spectral analysis and time series", 5.3); of the ranks, so
    that a single stall does not hide it.
    """
    count = len(values)
    ordered = sorted(values)
    ranks = [(bisect.bisect_left(ordered, value) + bisect.bisect_right(ordered, value) - count) / 2 for value in values]
    power = sum(rank * rank for rank in ranks)
    correlation = sum(a * b for a, b in zip(ranks, ranks[1:])) / power if power else 0.0
    return max(1, round(count * (1 - correlation) / (1 + correlation))) if correlation > 0 else count


def _t(table: Tuple[float, ...], freedom: int, limit: float) -> float:
    return table[freedom - 1] if freedom <= len(table) else limit + (limit**3 + limit) / (4 * freedom)


def mean_interval(values: Sequence[float]) -> Tuple[float, float, float]:
    """Mean and its 95 % confidence interval by Student's t; infinitely wide for a single value, and around 0 for none."""
    count = len(values)
    mean = sum(values) / count if count else 0.0
    if count < 2:
        return mean, -math.inf, math.inf
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1))
    half = _t(_T975, count - 1, 1.960) * deviation / math.sqrt(count)
    return mean, mean - half, mean + half


def trimmed_interval(values: Sequence[float]) -> Tuple[float, float, float]:
    """Trimmed mean and its 99 % confidence interval: an eighth of the values at each end is cut off (none of fewer than 8).

    By Tukey & McLaughlin's t with the winsorized deviation (Wilcox, "Introduction to robust estimation", 4.3): one value disturbed by a
    burst of other work neither moves it far nor makes it wide.  Infinitely wide for a single value, and around 0 for none.
    """
    ordered = sorted(values)
    count = len(ordered)
    cut = math.floor(count * _TRIM)
    kept = ordered[cut : count - cut]
    mean = sum(kept) / len(kept) if kept else 0.0
    if count < 2:
        return mean, -math.inf, math.inf
    winsorized = [kept[0]] * cut + kept + [kept[-1]] * cut
    middle = sum(winsorized) / count
    deviation = math.sqrt(sum((value - middle) ** 2 for value in winsorized) / (count - 1))
    half = _t(_T995, len(kept) - 1, 2.576) * deviation / ((1 - 2 * cut / count) * math.sqrt(count))
    return mean, mean - half, mean + half


def relative_width(low: float, high: float, middle: float) -> float:
    """Width of an interval as a share of its middle."""
    return (high - low) / middle if middle > 0 else math.inf


def drift(values: Sequence[float]) -> float:
    """How far a series moved from its begin to its end, as a share of its median; 0 where that may be chance.

    The slope is Theil and Sen's, the test Mann and Kendall's at 99 % (Gilbert, "Statistical methods for environmental pollution
    monitoring", 16.4), over at most 200 values.
    """
    values = values[:: math.ceil(len(values) / _DRIFT_BLOCKS)] if values else values
    count = len(values)
    if count < 8:
        return 0.0
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    score = sum((values[j] > values[i]) - (values[j] < values[i]) for i, j in pairs)
    z = (abs(score) - 1) / math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    if z < _DRIFT_Z:
        return 0.0
    return median([(values[j] - values[i]) / (j - i) for i, j in pairs]) * (count - 1) / median(values)


def outliers(samples: Sequence[float]) -> float:
    """The share of samples that are stalls: beyond 3 quartile distances above the upper quartile (Tukey's outer fence), and half as
    long again as the median, so that the steps of a coarse clock are none."""
    quarter, middle, upper = (quantile(samples, share) for share in (0.25, 0.5, 0.75))
    fence = max(upper + 3 * (upper - quarter), 1.5 * middle)
    return sum(sample > fence for sample in samples) / len(samples)


def clustered_interval(blocks: Sequence[Sequence[float]]) -> Tuple[float, float]:
    """A 95 % confidence interval of the median of all values, which come in blocks of neighbours.

    Woodruff's ("Confidence intervals for medians and other position measures", 1952): the share of values below the median differs from
    block to block, which gives the error of that share, and the quantiles that far on either side of a half bound the median.  The blocks
    are clusters (Cochran, "Sampling techniques", 9A.6), worth as many as :func:`effective_count` says.  It holds the median by its making.
    """
    values = sorted(value for block in blocks for value in block)
    middle = quantile_of(values, 0.5)
    surplus = [sum((value < middle) - (value > middle) for value in block) / 2 for block in blocks]
    worth = min(effective_count(surplus), len(blocks))
    if worth < 2:
        return values[0], values[-1]
    error = math.sqrt(len(blocks) / (worth - 1) * sum(one * one for one in surplus)) / len(values)
    half = min(0.5, _t(_T975, worth - 1, 1.960) * error)
    return quantile_of(values, 0.5 - half), quantile_of(values, 0.5 + half)


def summary(samples: List[int], blocks: List[List[int]]) -> Dict[str, Any]:
    """Figures of one model in ns: median, p90, p99, the interval of the median, drift and outliers; of all ``samples``, which are those of
    the ``blocks`` one after another."""
    low, high = clustered_interval(blocks)
    return {
        "median_ns": median(samples),
        "low_ns": low,
        "high_ns": high,
        "p90_ns": quantile(samples, 0.9),
        "p99_ns": quantile(samples, 0.99),
        "drift": drift([median(block) for block in blocks]),
        "outliers": outliers(samples),
        "samples_ns": samples,
        "windows": [len(block) for block in blocks],
    }
