"""A final measurement that cannot decide the budget is repeated, up to a cap; then it is undecided, never met."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
from measured import MEASURED

from edgeprune.bench import Measurement
from edgeprune.bench.intervals import latencies_ms, trimmed_interval
from edgeprune.budget import Budget
from edgeprune.report.html import page
from edgeprune.report.summary import next_step
from edgeprune.runs.directory import RunDirectory
from edgeprune.runs.events import Event, SessionEnded
from edgeprune.runs.summary import BudgetSummary, JudgedSummary, RunSummary
from edgeprune.search.events import EventStream
from edgeprune.search.measure.decide import MOST_SESSIONS, measure_until_decided, recall_final
from edgeprune.search.measure.paired import PairedMeasurement
from edgeprune.search.verdicts import doubtful_share, judge_pair
from edgeprune.verdict import Verdict


class Sessions:
    """A device on which a model takes ``ratio`` of the dense one's 2 ms, give or take ``noise``."""

    def __init__(self, ratio: float, noise: float, rounds: int = 8) -> None:
        self.random, self.ratio, self.noise, self.rounds, self.asked = random.Random(3), ratio, noise, rounds, list[str]()

    def _measured(self, ms: float) -> Measurement:
        windows = (20,) * self.rounds
        samples = tuple(
            int(1e6 * ms * (1 + shift + self.random.gauss(0, 0.001)))
            for shift in (self.random.gauss(0, self.noise) for _ in windows)
            for _ in range(20)
        )
        return replace(MEASURED, **latencies_ms(samples, windows), samples_ns=samples, windows=windows)

    def measure_pair(self, key: str, dense: Path, path: Path, stop_at: float | None = None) -> PairedMeasurement:
        self.asked.append(key)
        logs = tuple(math.log(self.ratio) + self.random.gauss(0, self.noise) for _ in range(self.rounds))
        return PairedMeasurement(*trimmed_interval(logs), self._measured(2.0), self._measured(2.0 * self.ratio), logs)


@pytest.fixture
def decided(tmp_path: Path):
    def run(sessions: Sessions, latency: str) -> tuple[PairedMeasurement, RunDirectory]:
        directory = RunDirectory(tmp_path / "run")
        told: list[Event] = []
        events = EventStream(told.append)
        found = measure_until_decided(sessions, directory, Budget(latency=latency), "final", Path("a"), Path("b"), events)
        assert found is not None
        ended = [event for event in told if isinstance(event, SessionEnded)]
        assert [event.number for event in ended] == list(range(1, len(sessions.asked) + 1))
        assert [event.verdict for event in ended[:-1]] == [Verdict.UNDECIDED] * (len(ended) - 1)
        assert (ended[-1].ratio, ended[-1].verdict) == (
            found.ratio,
            judge_pair(Budget(latency=latency).limits()["latency"], found).verdict,
        )
        return found, directory

    return run


@pytest.mark.parametrize(
    ("latency", "verdict"), [("60%", Verdict.MET), ("40%", Verdict.MISSED), ("1.2ms", Verdict.MET), ("0.8ms", Verdict.MISSED)]
)
def test_what_is_clear_is_measured_once(decided, latency: str, verdict: Verdict) -> None:
    sessions = Sessions(0.5, 0.01)
    found, directory = decided(sessions, latency)
    assert sessions.asked == ["final"]
    assert judge_pair(Budget(latency=latency).limits()["latency"], found).verdict == verdict
    assert directory.recall("final-together") is None


@pytest.mark.parametrize("latency", ["51%", "1.02ms"])
def test_more_rounds_decide_what_a_few_do_not(decided, latency: str) -> None:
    sessions = Sessions(0.5, 0.02)
    found, directory = decided(sessions, latency)
    assert 1 < len(sessions.asked) <= MOST_SESSIONS
    assert len(set(sessions.asked)) == len(sessions.asked)
    assert len(found.log_ratios) == 8 * len(sessions.asked)
    assert judge_pair(Budget(latency=latency).limits()["latency"], found).verdict == Verdict.MET
    kept = directory.recall("final-together")
    assert kept is not None
    assert PairedMeasurement.from_json(kept) == found  # what a release finds is what was judged
    assert recall_final(directory, "final") == kept


@pytest.mark.parametrize("latency", ["50%", "1ms"])
def test_after_the_cap_it_is_undecided(decided, latency: str) -> None:
    sessions = Sessions(0.5, 0.1)
    found, _ = decided(sessions, latency)
    assert len(sessions.asked) == MOST_SESSIONS
    assert judge_pair(Budget(latency=latency).limits()["latency"], found).verdict == Verdict.UNDECIDED


def trial(low: float, high: float) -> PairedMeasurement:
    """A measurement of a model that takes so much of the dense one's 2 ms."""
    middle = (low + high) / 2
    return PairedMeasurement(middle, low, high, MEASURED, replace(MEASURED, latency_ms=2 * middle, low_ms=2 * low, high_ms=2 * high))


@pytest.mark.parametrize(
    ("low", "high", "share"),
    [(0.49, 0.51, 1.02), (0.44, 0.52, 1.04), (0.49, 0.53, 0.0), (0.48, 0.5, 0.0), (0.501, 0.51, 0.0), (0.1, math.inf, 0.0)],
)
def test_a_narrower_plan_helps_where_the_interval_just_reaches_over_the_limit(low: float, high: float, share: float) -> None:
    assert doubtful_share(Budget(latency="50%").limits()["latency"], trial(low, high)) == pytest.approx(share)
    assert doubtful_share(None, trial(low, high)) == doubtful_share(Budget(latency="50%").limits()["latency"], None) == 0.0


@pytest.mark.parametrize(
    ("budget", "judged", "said"),
    [
        ("latency", JudgedSummary(0.5, 0.49, 0.51, 0.5, True), "--latency 49%"),
        ("latency", JudgedSummary(10.0, 9.0, 10.5, 10.0), "--latency 9.52ms"),
        ("latency", JudgedSummary(10.0, 0.0, math.inf, 10.0), "end what else runs on the device"),
        ("energy", None, "connect a meter"),
        ("max_drop", None, "validation data"),
    ],
)
def test_an_undecided_run_says_what_to_do_next(budget: str, judged: JudgedSummary | None, said: str) -> None:
    summary = RunSummary(
        budget={budget: BudgetSummary("10", 10.0, judged, Verdict.UNDECIDED), "size": BudgetSummary("1MB", 1e6, None, Verdict.MET)}
    )
    assert said in str(next_step(summary))
    assert said in page(summary)
    missed = replace(summary, budget=summary.budget | {"size": BudgetSummary("1MB", 1e6, None, Verdict.MISSED)})
    assert next_step(missed) is None
    assert next_step(replace(summary, budget={"size": BudgetSummary("1MB", 1e6, None, Verdict.MET)})) is None
