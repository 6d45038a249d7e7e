"""The step in channels, found in measured times."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgeprune.cost.step import POINTS, channel_step
from edgeprune.cost.table import point_key

# Milliseconds by width that LiteRT took on SwiftShader, a GPU in software, while the machine was busy.
MEASURED = (
    "2.03 1.26 2.0 2.17 2.39 2.03 2.06 2.04 2.61 2.84 2.68 2.23 1.5 1.51 2.85 2.69 3.28 3.27 3.31 3.35 4.93 3.27 3.29 3.28 "
    "3.91 3.84 3.88 3.92 3.94 3.92 3.96 3.91 4.59 4.6 4.53 4.5 4.61 4.53 4.7 4.55 5.21 5.39 8.09 5.12 5.13 5.13 5.29 5.27"
)


def times(step: int, noise: float = 0.0, stalls: float = 0.0) -> dict[str, float]:
    """A staircase with that step; some of the times are ``stalls`` times as long as well."""
    random = np.random.default_rng(0)
    found = {}
    for point in POINTS:
        ms = 0.5 + 0.08 * math.ceil(point[2] / step) * step
        found[point_key(point)] = ms * (1 + noise * random.random()) * (1 + stalls * (random.random() < 0.15))
    return found


@pytest.mark.parametrize("step", [1, 4, 8, 16, 32])
def test_a_staircase_is_found_in_spite_of_noise_and_stalls(step: int) -> None:
    assert channel_step(times(step)) == step
    assert channel_step(times(step, noise=0.005, stalls=1.5)) == step


def test_noise_is_no_staircase() -> None:
    assert channel_step(times(1, noise=0.3)) == 1


def test_a_measured_one() -> None:
    assert channel_step({point_key(point): float(text) for point, text in zip(POINTS, MEASURED.split(), strict=True)}) == 8
