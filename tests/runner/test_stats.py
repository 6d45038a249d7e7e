"""The runner's statistics against known distributions, and its comparisons against simulated noise with a clock of its own."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from edgeprune.targets.runner import compare, measure, stats
from edgeprune.targets.runner.throttle_guard import ThrottleGuard
from hypothesis import given
from hypothesis import strategies as st


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=60), st.integers(1, 60))
def test_an_interval_holds_its_median(values: list[float], effective: int) -> None:
    low, high = stats.median_interval(values, effective)
    assert min(values) <= low <= stats.median(values) <= high <= max(values)


@pytest.mark.parametrize(("count", "low", "high"), [(6, 1, 6), (10, 2, 9), (20, 6, 15), (100, 40, 61)])
def test_order_statistics_of_the_median(count: int, low: int, high: int) -> None:
    """Hahn & Meeker, "Statistical Intervals", table A.15: the ranks of the 95 % interval."""
    assert stats.median_interval(list(range(1, count + 1))) == (low, high)


def test_intervals_hold_the_true_value_as_often_as_they_say() -> None:
    generator = random.Random(1)
    samples = [[generator.lognormvariate(0, 0.5) for _ in range(25)] for _ in range(600)]
    assert sum(low <= 1 <= high for low, high in map(stats.median_interval, samples)) >= 0.93 * 600
    means = [stats.mean_interval([generator.gauss(5, 1) for _ in range(6)]) for _ in range(600)]
    assert 0.92 * 600 <= sum(low <= 5 <= high for _, low, high in means) <= 0.98 * 600
    trimmed = [stats.trimmed_interval([generator.gauss(5, 1) for _ in range(8)]) for _ in range(1000)]
    assert 0.975 * 1000 <= sum(low <= 5 <= high for _, low, high in trimmed) <= 0.998 * 1000


def _walk(generator: random.Random, count: int, memory: float) -> list[float]:
    """A first-order autoregressive series around 100."""
    values, state = [], 0.0
    for _ in range(count):
        state = memory * state + generator.gauss(0, 1)
        values.append(100 + state)
    return values


def test_correlated_values_are_worth_fewer() -> None:
    generator = random.Random(2)
    counts = [stats.effective_count(_walk(generator, 400, 0.6)) for _ in range(50)]
    assert sum(counts) / 50 == pytest.approx(400 * (1 - 0.6) / (1 + 0.6), rel=0.15)
    assert stats.effective_count([1.0, 2.0] * 50) == 100
    assert stats.effective_count([3.0] * 10) == 10


def test_the_interval_of_a_correlated_series_is_widened() -> None:
    generator = random.Random(3)
    walks = [_walk(generator, 60, 0.5) for _ in range(400)]
    plain = sum(low <= 100 <= high for low, high in map(stats.median_interval, walks))
    widened = sum(low <= 100 <= high for low, high in (stats.median_interval(walk, stats.effective_count(walk)) for walk in walks))
    assert plain < 0.9 * 400 < widened


def test_one_outlier_neither_moves_nor_widens_a_trimmed_mean() -> None:
    values = [0.01, -0.01, 0.02, -0.02, 0.0, 0.01, -0.01, 0.0]
    mean, low, high = stats.trimmed_interval(values)
    spoilt_mean, spoilt_low, spoilt_high = stats.trimmed_interval([*values[:-1], 5.0])
    assert abs(spoilt_mean - mean) < 0.01
    assert spoilt_high - spoilt_low < 2 * (high - low)
    assert stats.trimmed_interval([1.0]) == (1.0, -math.inf, math.inf)


def test_drift_is_distinguished_from_noise() -> None:
    generator = random.Random(4)
    flat = [generator.gauss(100, 1) for _ in range(60)]
    rising = [value + 0.2 * index for index, value in enumerate(flat)]
    assert stats.drift(flat) == 0
    assert stats.drift(rising) == pytest.approx(0.2 * 59 / 106, rel=0.15)
    assert stats.drift(rising[::-1]) == pytest.approx(-0.2 * 59 / 106, rel=0.15)
    assert sum(stats.drift([generator.gauss(100, 1) for _ in range(20)]) != 0 for _ in range(300)) <= 12


def test_stalls_are_outliers_and_a_coarse_clock_is_none() -> None:
    assert stats.outliers([100] * 60 + [101] * 30 + [400] * 10) == pytest.approx(0.1)
    assert stats.outliers([1000] * 95 + [1001] * 5) == 0


# comparisons, with models that take as long as a simulation says


class _Clock:
    """Time that passes when a simulated model runs."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class _Machine:
    """What disturbs every model alike: slow drift, correlated noise, bursts of other work."""

    def __init__(self, seed: int, clock: _Clock, noise: float, bursts: float, drift: float, luck: float) -> None:
        self.random, self.clock = random.Random(seed), clock
        self.noise, self.bursts, self.drift, self.luck = noise, bursts, drift, luck
        self._state, self._until = 0.0, -1.0

    def factor(self) -> float:
        self._state = 0.8 * self._state + self.random.gauss(0, self.noise)
        if self.random.random() < self.bursts:
            self._until = self.clock.now + self.random.expovariate(1 / 0.03)
        busy = self.random.uniform(1.3, 2.0) if self.clock.now < self._until else 1.0
        return math.exp(self._state + self.drift * self.clock.now) * busy


class _LoadedModel:
    """A loaded model: some processes are luckier than others."""

    def __init__(self, machine: _Machine, ns: float) -> None:
        self.machine, self.ns = machine, ns * math.exp(machine.random.gauss(0, machine.luck))
        self.warmup_s, self.settled, self.child, self.pid = 0.0, True, self, 0

    def warm_up(self, limit_s: float) -> None:
        self.block(50_000_000)

    def facts(self) -> dict:
        return {"runtime": "simulated"}

    def close(self) -> None:
        pass

    def energy(self, options: measure.Options) -> dict:
        return {"energy_mj": self.ns / 1e6}

    def block(self, time_ns: int, skip: int = 0) -> list[int]:
        samples: list[int] = []
        while sum(samples) < time_ns:
            samples.append(int(self.ns * self.machine.factor()))
            self.machine.clock.now += samples[-1] / 1e9
        return samples


NOISES = {
    "quiet": {"noise": 0.002, "bursts": 0.0, "drift": 0.0, "luck": 0.002},
    "drifting": {"noise": 0.005, "bursts": 0.0, "drift": 0.02, "luck": 0.005},
    "bursts": {"noise": 0.01, "bursts": 0.02, "drift": 0.0, "luck": 0.005},
    "lucky processes": {"noise": 0.002, "bursts": 0.0, "drift": 0.0, "luck": 0.03},
}


@pytest.fixture
def simulate(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[dict]]:
    """Comparisons of models that take ``times`` ns under a noise."""

    def run(noise: dict, times: dict[str, float], count: int, others: float | None = 0.0, **given: Any) -> list[dict]:
        found = []
        monkeypatch.setattr(compare, "Others", lambda _: SimpleNamespace(share=lambda: others))
        for seed in range(count):
            clock = _Clock()
            machine = _Machine(seed, clock, **noise)
            monkeypatch.setattr(compare, "time", clock)
            monkeypatch.setattr(compare, "LoadedModel", lambda model, _, machine=machine: _LoadedModel(machine, times[model["name"]]))
            monkeypatch.setattr(measure.Options, "guard", lambda *_, clock=clock: ThrottleGuard(probe=dict, clock=clock))
            options = measure.Options(min_time_s=0.4, max_time_s=2.0, **given)
            found.append(compare.compare([{"name": name} for name in times], options, lambda *_, **__: None)["models"][1])
        return found

    return run


@pytest.mark.parametrize("count", [20, pytest.param(300, marks=pytest.mark.soak)])
@pytest.mark.parametrize("noise", NOISES)
def test_a_model_is_the_same_as_itself(simulate: Callable[..., list[dict]], noise: str, count: int) -> None:
    found = simulate(NOISES[noise], {"a": 1e6, "b": 1e6}, count)
    assert sum(item["low"] <= 1 <= item["high"] for item in found) >= 0.95 * count
    assert stats.median([item["high"] - item["low"] for item in found]) < 0.1


@pytest.mark.parametrize("count", [20, pytest.param(200, marks=pytest.mark.soak)])
@pytest.mark.parametrize("noise", NOISES)
def test_looks_after_every_round_seldom_put_a_model_at_the_limit_on_one_side(
    simulate: Callable[..., list[dict]], noise: str, count: int
) -> None:
    found = simulate(NOISES[noise], {"a": 1e6, "b": 0.5e6}, count, stop_at=0.5)
    assert sum(not item["low"] <= 0.5 <= item["high"] for item in found) <= max(0.06 * count, 2)
    assert all(len(item["log_ratios"]) >= 8 or item["stop_reason"] in ("precise", "clear of the limit") for item in found)


@pytest.mark.parametrize("count", [20, pytest.param(200, marks=pytest.mark.soak)])
@pytest.mark.parametrize("noise", ["quiet", "drifting", "bursts"])
@pytest.mark.parametrize("share", [0.9, 1.15])
def test_a_model_far_from_the_limit_takes_few_rounds(simulate: Callable[..., list[dict]], noise: str, share: float, count: int) -> None:
    found = simulate(NOISES[noise], {"a": 1e6, "b": share * 0.5e6}, count, stop_at=0.5)
    right = [item["high"] < 0.5 if share < 1 else item["low"] > 0.5 for item in found]
    assert sum(right) >= 0.98 * count
    assert stats.median([len(item["log_ratios"]) for item in found]) <= 6  # the full rule takes eight at least
    assert all((item["high"] - item["low"]) / item["ratio"] <= 0.1 for item in found if item["stop_reason"] == "clear of the limit")
    assert sum(item["low"] <= share * 0.5 <= item["high"] for item in found) >= 0.95 * count


@pytest.mark.parametrize(("others", "rounds"), [(0.3, 8), (0.04, 3), (None, 3)])
def test_no_comparison_ends_early_beside_other_programs(simulate: Callable[..., list[dict]], others: float | None, rounds: int) -> None:
    (found,) = simulate(NOISES["quiet"], {"a": 1e6, "b": 1.15 * 0.5e6}, 1, stop_at=0.5, others=others)
    assert len(found["log_ratios"]) == rounds


@pytest.mark.parametrize("number", [0, 3])
def test_one_round_of_a_comparison_that_devices_share(simulate: Callable[..., list[dict]], number: int) -> None:
    """However noisy it is."""
    (found,) = simulate(NOISES["bursts"], {"a": 1e6, "b": 0.5e6}, 1, only_round=number)
    assert len(found["log_ratios"]) == 1
    assert found["stop_reason"] == "one round"
    assert found["ratio"] == pytest.approx(0.5, rel=0.1)
    assert found["high"] is None


@pytest.mark.parametrize("count", [20, pytest.param(300, marks=pytest.mark.soak)])
@pytest.mark.parametrize("noise", ["quiet", "drifting", "bursts"])
def test_a_model_that_is_a_little_slower_is_found_out(simulate: Callable[..., list[dict]], noise: str, count: int) -> None:
    found = simulate(NOISES[noise], {"a": 1e6, "b": 1.05e6}, count)
    assert sum(item["low"] > 1 for item in found) >= 0.9 * count
    assert sum(item["low"] <= 1.05 <= item["high"] for item in found) >= 0.95 * count


def test_a_comparison_reports_each_models_energy(simulate: Callable[..., list[dict]], monkeypatch: pytest.MonkeyPatch) -> None:
    times = {"base": 1e6, "half": 5e5}
    assert simulate(NOISES["quiet"] | {"luck": 0.0}, times, 1)[0]["energy_mj"] is None  # there is no meter
    monkeypatch.setattr(compare, "has_meter", lambda _: True)
    assert simulate(NOISES["quiet"] | {"luck": 0.0}, times, 1)[0]["energy_mj"] == pytest.approx(0.5)


def test_three_models_keep_their_ratios(simulate: Callable[..., list[dict]]) -> None:
    (found,) = simulate(NOISES["quiet"], {"base": 1e6, "half": 5e5, "other": 2e6}, 1)
    assert found["ratio"] == pytest.approx(0.5, rel=0.02)
