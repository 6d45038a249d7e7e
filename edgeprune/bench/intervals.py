"""Intervals from raw samples, as the runner makes them on the device (``targets/runner/stats.py`` gives the sources): what it says is
checked with these, and rounds of several sessions are put together."""

from __future__ import annotations

import math
from collections.abc import Sequence

_TRIM = 0.125


def trimmed_interval(log_ratios: Sequence[float]) -> tuple[float, float, float]:
    """A ratio with its 99 % interval from the logarithms of the rounds' ratios: their trimmed mean, by Tukey and McLaughlin's t.

    Of a single round the interval is 0 to infinity.
    """
    ordered = sorted(log_ratios)
    count = len(ordered)
    cut = math.floor(count * _TRIM)
    kept = ordered[cut : count - cut]
    if not kept:
        return math.nan, 0.0, math.inf
    mean = sum(kept) / len(kept)
    if count < 2:
        return math.exp(mean), 0.0, math.inf
    from scipy.stats import t

    winsorized = [kept[0]] * cut + kept + [kept[-1]] * cut
    middle = sum(winsorized) / count
    deviation = math.sqrt(sum((value - middle) ** 2 for value in winsorized) / (count - 1))
    half = float(t.ppf(0.995, len(kept) - 1)) * deviation / ((1 - 2 * cut / count) * math.sqrt(count))
    return math.exp(mean), math.exp(mean - half), math.exp(min(mean + half, 700.0))


def median_ranks(samples: Sequence[int], windows: Sequence[int]) -> float:
    """How far, as a share of the samples, the ends of the median's 95 % interval are from the middle: 0 to 0.5.

    ``windows``: how many neighbouring samples each window has.
    """
    import numpy as np
    from scipy.stats import t

    values = np.asarray(samples, float)
    middle = np.median(values)
    signs = np.sign(middle - values)
    surplus = np.add.reduceat(signs, np.concatenate([[0], np.cumsum(windows)[:-1]])) / 2
    worth = min(_effective_count(surplus.tolist()), len(windows))
    if worth < 2:
        return 0.5
    error = math.sqrt(len(windows) / (worth - 1) * float(np.square(surplus).sum())) / len(values)
    return min(0.5, float(t.ppf(0.975, worth - 1)) * error)


def latencies_ms(samples: Sequence[int], windows: Sequence[int]) -> dict[str, float]:
    """Median, the ends of its interval, and the 90 % and 99 % quantiles, in ms and by a measurement's names for them."""
    import numpy as np

    half = median_ranks(samples, windows)
    shares = {"latency_ms": 0.5, "low_ms": 0.5 - half, "high_ms": 0.5 + half, "p90_ms": 0.9, "p99_ms": 0.99}
    found = np.quantile(np.asarray(samples, float), list(shares.values())) / 1e6
    return dict(zip(shares, map(float, found), strict=True))


def _effective_count(values: Sequence[float]) -> int:
    from scipy.stats import rankdata

    count = len(values)
    ranks = rankdata(values) - (count + 1) / 2
    power = float((ranks * ranks).sum())
    correlation = float((ranks[:-1] * ranks[1:]).sum()) / power if power else 0.0
    return max(1, round(count * (1 - correlation) / (1 + correlation))) if correlation > 0 else count
