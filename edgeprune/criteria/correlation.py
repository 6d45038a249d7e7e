"""Rank correlations and ratios with their uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

RESAMPLES = 1000


@dataclass(frozen=True)
class Estimate:
    """A ``value`` and the 95 % bootstrap interval around it."""

    value: float
    low: float
    high: float


def rank_correlation(strata: Sequence[tuple[Sequence[float], Sequence[float]]], seed: int = 0) -> Estimate:
    """Spearman's rank correlation within each stratum, a pair of equally long (predicted, true), averaged over strata: -1 to 1.

    A criterion that ranks nothing (all values equal) counts as 0. The interval is the percentile bootstrap: pairs are resampled within
    every stratum, ``RESAMPLES`` times (Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13).
    """
    random = np.random.default_rng(seed)
    values, resampled = [], []
    for predicted, true in strata:
        pairs = np.array([predicted, true], float)
        drawn = random.integers(0, pairs.shape[1], (RESAMPLES, pairs.shape[1]))
        values.append(_spearman(pairs[:, None, :])[0])
        resampled.append(_spearman(pairs[:, drawn]))
    low, high = np.quantile(np.mean(resampled, 0), [0.025, 0.975])
    return Estimate(float(np.mean(values)), float(low), float(high))


def mean_ratio(above: Sequence[float], below: Sequence[float], seed: int = 0) -> Estimate:
    """The geometric mean of ``above`` / ``below`` (what is less than 1e-12 counts as that), and its percentile bootstrap over the pairs."""
    logs = np.subtract(*(np.log(np.maximum(values, 1e-12)) for values in (above, below)))
    resampled = logs[np.random.default_rng(seed).integers(0, len(logs), (RESAMPLES, len(logs)))].mean(1)
    return Estimate(*(float(np.exp(value)) for value in (logs.mean(), *np.quantile(resampled, [0.025, 0.975]))))


def _spearman(pairs: np.ndarray) -> np.ndarray:
    """(2, B, n) -> (B,)."""
    ranks = rankdata(pairs, axis=2)
    ranks -= ranks.mean(2, keepdims=True)
    scale = np.sqrt(np.prod((ranks**2).sum(2), axis=0))
    return np.asarray((ranks[0] * ranks[1]).sum(1) / np.where(scale > 0, scale, 1.0))
