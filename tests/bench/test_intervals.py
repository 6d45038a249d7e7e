"""Intervals of ratios whose rounds several boards measured."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from edgeprune.bench.consistency import check_ratio
from edgeprune.bench.intervals import stratified_interval, trimmed_interval

Noise = Callable[[np.random.Generator, int], np.ndarray]
NOISES: dict[str, Noise] = {
    "normal": lambda random, count: random.normal(0, 0.01, count),
    "heavy tails": lambda random, count: 0.008 * random.standard_t(3, count),
}
SIZES = [(2, 2), (3, 1), (4, 4), (6, 2), (8, 8), (3, 3, 3)]


def missed(sizes: tuple[int, ...], noise: Noise, apart: float, count: int) -> float:
    """How often the interval lacks the mean of boards that are so far ``apart``."""
    random, found = np.random.default_rng(1), 0
    middles = [math.log(0.5) + apart * number / (len(sizes) - 1) for number in range(len(sizes))]
    true = math.exp(float(np.average(middles, weights=sizes)))
    for _ in range(count):
        _, low, high = stratified_interval([(middle + noise(random, size)).tolist() for middle, size in zip(middles, sizes, strict=True)])
        found += not low <= true <= high
    return found / count


@pytest.mark.parametrize("count", [400, pytest.param(4000, marks=pytest.mark.soak)])
@pytest.mark.parametrize("apart", [0.0, 0.03])
@pytest.mark.parametrize("noise", ["normal", "heavy tails"])
@pytest.mark.parametrize("sizes", SIZES)
def test_the_interval_of_all_rounds_holds_the_mean_of_the_boards(sizes: tuple[int, ...], noise: str, apart: float, count: int) -> None:
    """Of a hundred about one does not; the bound leaves room for chance in so few."""
    assert missed(sizes, NOISES[noise], apart, count) <= (0.03 if count < 1000 else 0.02)


def test_a_burst_in_one_round_neither_decides_nor_hides_the_rest() -> None:
    quiet = [[-0.001, 0.001, 0.0005, -0.0005], [0.001, -0.001, 0.0, 0.0005]]
    disturbed = [[*quiet[0][:-1], 0.4], quiet[1]]
    ratio, low, high = stratified_interval(quiet)
    spoilt, _, spoilt_high = stratified_interval(disturbed)
    assert high - low < 0.01
    assert spoilt < 1.0 + sum(disturbed[0]) / 8, "less than its share moves the ratio"
    assert spoilt_high >= high
    assert ratio == pytest.approx(1.0, abs=1e-3)


def test_how_far_boards_lie_apart_is_no_noise_of_rounds() -> None:
    """The interval is no wider than where they agree, but that it reaches to every board's own mean."""
    rounds = [-0.002, 0.002, 0.0005, -0.0005]
    ratio, low, high = stratified_interval([rounds, [value + 0.05 for value in rounds]])
    assert ratio == pytest.approx(math.exp(0.025), rel=1e-6)
    assert (low, high) == (pytest.approx(math.exp(0.0), rel=1e-6), pytest.approx(math.exp(0.05), rel=1e-6))
    _, near_low, near_high = stratified_interval([rounds, [value + 0.001 for value in rounds]])
    assert near_low < math.exp(0.0) < math.exp(0.001) < near_high < 1.01


def test_one_board_and_boards_of_single_rounds_are_one_sample() -> None:
    rounds = [-0.002, 0.001, 0.0015, -0.0005]
    assert stratified_interval([rounds]) == trimmed_interval(rounds)
    assert stratified_interval([[value] for value in rounds]) == trimmed_interval(rounds)
    assert stratified_interval([[0.1]])[1:] == (0.0, math.inf)
    assert all(map(math.isfinite, stratified_interval([[0.1, 0.11], [0.1]])))


def test_a_record_says_what_its_boards_measured() -> None:
    strata = [[-0.002, 0.001, 0.0015, -0.0005], [0.01, 0.012, 0.011, 0.009]]
    made = stratified_interval(strata)
    check_ratio(*made, *strata)
    with pytest.raises(ValueError, match="its rounds give"):
        check_ratio(*made, [*strata[0], *strata[1]])
    with pytest.raises(ValueError, match="no rounds"):
        check_ratio(*made, strata[0], [])
