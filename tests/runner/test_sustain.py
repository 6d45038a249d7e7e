"""Load for minutes: the windows and states of a board that heats up, as its sensors were read; time from a clock of the test."""

from __future__ import annotations

import pytest
from edgeprune.targets.runner import sustain

from edgeprune.bench.sustained import of_answer, parse_duration
from edgeprune.errors import BudgetError, RunnerError

# A Raspberry Pi without a cooler: heats from 48 C, and is held at 1200 MHz above 80 C (get_throttled's bit 2, and bit 3 for a soft limit).
BOARD = [
    (0, 48.0, 1800, []),
    (60, 66.0, 1800, []),
    (150, 79.0, 1800, []),
    (200, 81.5, 1200, ["throttled"]),
    (9999, 82.0, 1200, ["throttled"]),
]


class Board:
    """A clock that running moves, and sensors that follow the recorded lines."""

    def __init__(self, lines: list, slow: tuple[float, ...]) -> None:
        self.now, self.lines, self.slow, self.events = 0.0, lines, slow, []

    def monotonic(self) -> float:
        return self.now

    def line(self) -> tuple:
        return next(line for line in self.lines if self.now <= line[0])

    def probe(self) -> dict:
        _, celsius, mhz, throttled = self.line()
        state = {"temperatures_c": {"cpu-thermal": celsius}, "clocks_mhz": [float(mhz)] * 4, "limit_mhz": 1800.0}
        return state | {"throttled": throttled, "governor": "ondemand", "loadavg": 1.0}

    def run(self, index: int, time_ns: int) -> list[int]:
        """A model that slows down with the clock, by its own share."""
        self.now += time_ns / 1e9
        return [int(1e7 * (1 + index * 0.1) * (1 + self.slow[index] * (1800 / self.line()[2] - 1)))] * 5

    def sustained(self, duration_s: float):
        count = len(self.slow)
        found = sustain.periods(self.run, count, duration_s, lambda *_, **event: self.events.append(event), self.probe, self)
        names = [f"m{index}" for index in range(count)]
        named = zip(names, found["points"], strict=True)
        models = [{"name": name, "points": points, "runtime": "litert", "version": "2"} for name, points in named]
        return of_answer({"models": models, "states": found["states"], "threads": 4}, names, "pi4", "a Pi", duration_s)


def test_a_board_that_gets_hot_changes_the_ranking() -> None:
    board = Board(BOARD, slow=(1.0, 0.2))
    found = board.sustained(600.0)
    assert found.window_s == 60
    assert found.ranking("first") == ["m0", "m1"]
    assert found.ranking("last") == ["m1", "m0"]
    first, second = found.curves
    assert (found.first_ms(first), found.last_ms(first)) == pytest.approx((10.0, 15.0))
    assert found.last_ms(second) / found.first_ms(second) == pytest.approx(1.1)
    assert [found.change(curve) for curve in found.curves] == ["slower", "slower"]
    assert found.throttled == ("throttled",)
    document = found.to_json()
    assert not document["ranking_kept"]
    assert [state["clock_mhz"] for state in document["states"]][:: len(document["states"]) - 1] == [1800.0, 1200.0]
    assert document["states"][-1]["hottest_c"] == 82.0
    assert len(first.points) == len(second.points) == 120
    assert board.events[-1]["number"] == 600


def test_a_board_without_limits_shows_a_flat_line() -> None:
    found = Board([(9999, 50.0, 1800, [])], slow=(1.0, 1.0)).sustained(60.0)
    assert found.window_s == 12
    assert [found.change(curve) for curve in found.curves] == ["steady", "steady"]
    assert found.throttled == ()
    assert found.to_json()["ranking_kept"]
    assert len({point.median_ns for point in found.curves[0].points}) == 1


def test_windows_are_neither_dropped_nor_waited_for() -> None:
    """Where a measurement cools down, a sustained load goes on."""
    board = Board([(9999, 95.0, 600, ["throttled"])], slow=(0.0,))
    found = board.sustained(30.0)
    assert board.now == pytest.approx(30.0, abs=0.6)
    assert found.throttled == ("throttled",)
    assert found.curves[0].points[-1].time_s == pytest.approx(30.0, abs=0.6)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"models": []}, "answered for other models"),
        ({"threads": "four"}, "the answer of pi4 is invalid"),
        ({"points": []}, "times of m0 on pi4 are invalid"),
        ({"points": [{"time_s": 1.0, "median_ns": -1.0, "p90_ns": 1.0, "samples": 1}]}, "not positive"),
    ],
)
def test_an_answer_that_does_not_hold_together_is_refused(change: dict, match: str) -> None:
    points = change.pop("points", [{"time_s": 1.0, "median_ns": 1.0, "p90_ns": 1.0, "samples": 1}])
    model = {"name": "m0", "points": points, "runtime": "litert", "version": "2"}
    with pytest.raises(RunnerError, match=match):
        of_answer({"models": [model], "states": [], "threads": 1} | change, ["m0"], "pi4", "a Pi", 30.0)


def test_durations() -> None:
    assert [parse_duration(text) for text in ("10min", "90s", "1.5 min", "1h")] == [600.0, 90.0, 90.0, 3600.0]
    for text in ("10", "2s", "10h", "ten minutes", "-5min"):
        with pytest.raises(BudgetError, match="is not a duration from 5s to 6h"):
            parse_duration(text)
