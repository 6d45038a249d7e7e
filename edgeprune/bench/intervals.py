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
    winsorized = [kept[0]] * cut + kept + [kept[-1]] * cut
    middle = sum(winsorized) / count
    deviation = math.sqrt(sum((value - middle) ** 2 for value in winsorized) / (count - 1))
    half = _t995(len(kept) - 1) * deviation / ((1 - 2 * cut / count) * math.sqrt(count))
    return math.exp(mean), math.exp(mean - half), math.exp(min(mean + half, 700.0))


def stratified_interval(strata: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """A ratio with its 99 % interval from rounds that several boards measured: :func:`trimmed_interval` of a stratified sample.

    ``strata``: by board the logarithms of its rounds' ratios. How far boards lie apart is no noise of a round: what is trimmed, and what
    deviates, are a round's differences from its board's mean, which cost a degree of freedom a board (Cochran, "Sampling techniques", 5.4).
    Boards of a single round count as one, for which their distance is noise (collapsed strata, 5A.12). A board whose own mean lies outside
    differs from the others by more than chance: the interval reaches to it, so that what it decides is so on every board.
    """
    groups = [list(stratum) for stratum in strata if len(stratum) > 1]
    if single := [stratum[0] for stratum in strata if len(stratum) == 1]:
        groups.append(single)
    if len(groups) < 2:
        return trimmed_interval(groups[0] if groups else [])
    count, means = sum(map(len, groups)), [sum(group) / len(group) for group in groups]
    cut = math.floor(count * _TRIM)
    apart = sorted(value - mean for group, mean in zip(groups, means, strict=True) for value in group)
    kept = apart[cut : count - cut]
    middle = sum(map(sum, groups)) / count + sum(kept) / len(kept)
    squares = 0.0
    for group, mean in zip(groups, means, strict=True):
        winsorized = [min(max(value - mean, kept[0]), kept[-1]) for value in group]
        squares += sum((value - sum(winsorized) / len(group)) ** 2 for value in winsorized)
    half = _t995(len(kept) - len(groups)) * math.sqrt(squares / (count - len(groups))) / ((1 - 2 * cut / count) * math.sqrt(count))
    low, high = min(middle - half, *means), max(middle + half, *means)
    return math.exp(middle), math.exp(low), math.exp(min(high, 700.0))


def _t995(freedom: int) -> float:
    from scipy.stats import t

    return float(t.ppf(0.995, freedom))


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
