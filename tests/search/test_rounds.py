"""How boards share the rounds of comparisons, and when these are enough."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
from fake_device import sampled
from measured import MEASURED

from edgeprune.bench import BenchOptions
from edgeprune.search.measure.backend import Asked
from edgeprune.search.measure.paired import CLEAR_OF_LIMIT, PairedMeasurement, Part
from edgeprune.search.measure.rounds import Round, SharedComparison, Sharing, options_of

OPTIONS = BenchOptions()


def a_round(log_ratio: float, board: str = "a", others: float = 0.0) -> Part:
    dense = sampled(replace(MEASURED, latency_ms=2.0, device=board, others=others))
    return Part(dense, replace(dense, name="pruned"), (log_ratio,))


def asked(stop_at: float | None = None) -> Asked:
    return Asked("candidate", Path("candidate.tflite"), stop_at)


def measured(
    one: Asked, log_ratio: float, noise: float, boards: str = "ab", seconds: float = 1.0, others: float = 0.0, seed: int = 0
) -> tuple[PairedMeasurement, int]:
    """The comparison, and how many rounds one board did at most, when all take as long."""
    generator, comparison, steps = random.Random(seed), SharedComparison[str](one, OPTIONS, len(boards)), 0
    while not comparison.reason:
        begun = [board for board in boards if comparison.next_for(board) is not None]
        assert begun, "somebody works until there are enough"
        steps += 1
        for board in begun:
            comparison.add(board, a_round(log_ratio + generator.gauss(0, noise), board, others), seconds)
    return comparison.result(boards), steps


@pytest.mark.parametrize(
    ("stop_at", "noise", "seconds", "others", "rounds", "why"),
    [
        (None, 0.001, 1.0, 0.0, 8, "precise"),
        (0.9, 0.001, 1.0, 0.0, 4, CLEAR_OF_LIMIT),
        (0.5, 0.0001, 1.0, 0.0, 4, "precise"),
        (0.9, 0.001, 1.0, 0.4, 8, "precise"),
        (None, 0.1, 3.0, 0.0, 8, "time limit"),
        (None, 0.1, 1.5, 0.0, 14, "time limit"),
    ],
)
def test_rounds_end_by_the_rule_of_one_board(
    stop_at: float | None, noise: float, seconds: float, others: float, rounds: int, why: str
) -> None:
    """But for looks: two boards are looked at together.  Busy ones are measured in full, and twenty seconds of one are ten of two."""
    pair, steps = measured(asked(stop_at), math.log(0.5), noise, seconds=seconds, others=others)
    assert (pair.rounds, pair.model.stop_reason) == (rounds, why)
    assert steps == rounds // 2
    assert [len(part.log_ratios) for part in pair.parts] == [rounds // 2] * 2


@pytest.mark.parametrize(("boards", "steps"), [("a", 3), ("ab", 2), ("abc", 1), ("abcdef", 1)])
def test_the_more_boards_the_fewer_rounds_each(boards: str, steps: int) -> None:
    assert measured(asked(0.9), math.log(0.5), 0.001, boards)[1] == steps


@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.soak)])
@pytest.mark.parametrize("noise", [0.003, 0.01, 0.03])
def test_looks_on_two_boards_seldom_put_a_model_at_the_limit_on_one_side(noise: float, count: int) -> None:
    found = [measured(asked(0.5), math.log(0.5), noise, seconds=2.5, seed=seed)[0] for seed in range(count)]
    assert sum(not pair.low <= 0.5 <= pair.high for pair in found) <= max(0.06 * count, 4)


def test_a_board_that_goes_away_takes_its_rounds_with_it() -> None:
    comparison = SharedComparison[str](asked(), OPTIONS, 2)
    for _ in range(3):
        for board in "ab":
            assert comparison.next_for(board) is not None
            comparison.add(board, a_round(0.3 if board == "b" else 0.0, board), 1.0)
    assert comparison.next_for("b") is not None
    comparison.lose("b")
    assert comparison.count == 3
    numbers = []
    while (task := comparison.next_for("a")) is not None:
        numbers.append(task.number)
        comparison.add("a", a_round(0.0), 1.0)
    assert numbers == [3, 4, 5, 6, 7]
    pair = comparison.result("ab")
    assert (pair.rounds, pair.beside, pair.ratio) == (8, (), 1.0), "what the other measured is measured anew"


def test_a_faster_board_does_more_rounds() -> None:
    comparison = SharedComparison[str](asked(), OPTIONS, 2)
    assert comparison.next_for("b") is not None
    done = 0
    while comparison.next_for("a") is not None:
        comparison.add("a", a_round(0.0), 1.0)
        done += 1
    assert done == 7
    comparison.add("b", a_round(0.0, "b"), 7.0)
    assert comparison.result("ab").rounds == 8


def test_the_next_comparison_is_begun_when_the_first_one_has_rounds_enough() -> None:
    made: list[int] = []

    def coming():
        for number in range(2):
            made.append(number)
            yield number, asked(0.9)

    sharing = Sharing[str](coming(), OPTIONS, 6)
    begun = [sharing.next_for(board) for board in "abcdef"]
    assert [number for number, _ in filter(None, begun)] == [0, 0, 0, 1, 1, 1]
    assert [sharing.add(0, board, a_round(0.0 + shift, board), 1.0) for board, shift in zip("ab", (0.0, 0.001), strict=True)] == [None] * 2
    done = sharing.add(0, "c", a_round(-0.001, "c"), 1.0)
    assert done is not None
    assert done.boards("abcdef") == ["a", "b", "c"]
    assert sharing.next_for("a") is None


def test_a_round_is_asked_for_by_its_number_and_energy_once() -> None:
    first, second = (options_of(Round(asked(0.9), number), OPTIONS) for number in range(2))
    assert (first.only_round, first.energy, first.stop_at) == (0, True, None)
    assert (second.only_round, second.energy) == (1, False)


def test_the_rounds_of_a_board_are_one_measurement() -> None:
    """Its energy is the first round's, warnings that differ in a number are one, and what settled is told from all samples."""
    said = ("1.3% of the runs were stalls", "2.4% of the runs were stalls")
    comparison = SharedComparison[str](asked(), OPTIONS, 1)
    for number in range(8):
        assert comparison.next_for("a") is not None
        part = a_round(0.0)
        model = replace(part.model, energy_mj=None if number else 3.0, stable=False, warnings=(said[number % 2],), sampled_s=0.5)
        comparison.add("a", replace(part, model=model), 1.0)
    pair = comparison.result("a")
    assert (pair.model.energy_mj, pair.model.stable, pair.model.warnings, pair.model.sampled_s) == (3.0, True, said[1:], 4.0)
    assert len(pair.model.samples_ns) == sum(pair.model.windows) == 8 * 30
