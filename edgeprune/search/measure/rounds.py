"""Comparisons whose rounds several boards share: which board does the next round, and when they are enough."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from edgeprune.bench import BenchOptions
from edgeprune.bench.advice import OTHERS
from edgeprune.bench.intervals import stratified_interval
from edgeprune.bench.rounds import joined
from edgeprune.search.measure.backend import Asked
from edgeprune.search.measure.paired import CLEAR_OF_LIMIT, PairedMeasurement, Part

B = TypeVar("B")

FIRST_LOOK, CLEAR_WIDTH = 3, 0.1
"""As the runner has them: the fewest rounds that may tell a ratio from a limit, and how wide its interval may be then."""


@dataclass(frozen=True)
class Round:
    """One round of a comparison: the ``number``-th of its board, from 0."""

    asked: Asked
    number: int


class SharedComparison(Generic[B]):
    """The rounds of one candidate, by board.

    Boards go on without waiting for each other up to a number of rounds, then all are looked at: the runner's own rule for one board, on
    the stratified interval of all. That takes two boards half the time, for ``boards`` of them do a round at once, and looks fewer times.
    What a board measured that went away is dropped, and measured by the others: nobody knows since when it was ill.
    """

    def __init__(self, asked: Asked, options: BenchOptions, boards: int) -> None:
        self.asked, self._options = asked, options
        first = options.rounds if asked.stop_at is None else min(FIRST_LOOK, options.rounds)
        self._step = max(1, min(boards, first))
        self._wanted = self._step * math.ceil(first / self._step)
        self._done: dict[B, list[tuple[Part, float]]] = {}
        self._begun: dict[B, int] = {}
        self.reason = ""

    @property
    def count(self) -> int:
        """Rounds that are done."""
        return sum(map(len, self._done.values()))

    def next_for(self, board: B) -> Round | None:
        """What the board is to do now; None when there are rounds enough, done or begun."""
        if self.reason or sum(self._begun.values()) >= self._wanted:
            return None
        number = self._begun.get(board, 0)
        self._begun[board] = number + 1
        return Round(self.asked, number)

    def add(self, board: B, part: Part, seconds: float) -> None:
        """A round is done, which took so long."""
        self._done.setdefault(board, []).append((part, seconds))
        if self.count >= self._wanted:
            self.reason = self._reason()
            self._wanted += 0 if self.reason else self._step

    def lose(self, board: B) -> None:
        """The board is gone."""
        self._begun.pop(board, None)
        self._done.pop(board, None)

    def result(self, order: Sequence[B]) -> PairedMeasurement:
        """What all rounds make; the latencies are those of the first board in ``order`` that measured any."""
        return PairedMeasurement.of([self._part(board) for board in order if board in self._done])

    def boards(self, order: Sequence[B]) -> list[B]:
        """Those that measured rounds, in ``order``."""
        return [board for board in order if board in self._done]

    def _part(self, board: B) -> Part:
        rounds, width = [part for part, _ in self._done[board]], self._options.relative_width
        dense, model = (joined([getattr(one, name) for one in rounds], width, self.reason) for name in ("dense", "model"))
        return Part(dense, model, tuple(value for one in rounds for value in one.log_ratios))

    def _reason(self) -> str:
        """Why these are enough rounds; "" while they are not."""
        low, ratio, high = self._interval()
        precise = high - low <= self._options.relative_width * ratio
        if self.asked.stop_at is not None and self._quiet and self.count < self._options.rounds:
            clear = high - low <= CLEAR_WIDTH * ratio and not low <= self.asked.stop_at <= high
            return CLEAR_OF_LIMIT if clear else "precise" if precise else ""
        if self.count < self._options.rounds:
            return ""
        return "precise" if precise else "time limit" if self._seconds() >= 2 * self._options.max_time_s else ""

    def _interval(self) -> tuple[float, float, float]:
        strata = [[value for part, _ in rounds for value in part.log_ratios] for rounds in self._done.values()]
        ratio, low, high = stratified_interval(strata)
        return low, ratio, high

    @property
    def _quiet(self) -> bool:
        """Whether nothing else ran on any of the boards."""
        parts = [part for rounds in self._done.values() for part, _ in rounds]
        return max((one.others or 0.0 for part in parts for one in (part.dense, part.model)), default=0.0) <= OTHERS

    def _seconds(self) -> float:
        """About what one board would have taken.  A board's first round sends files and may measure energy: it counts as the others do."""
        later = [seconds for rounds in self._done.values() for _, seconds in rounds[1:]]
        return self.count * sum(later) / len(later) if later else 0.0


class Sharing(Generic[B]):
    """Several comparisons shared out, each as it is ``asked`` for: the first one that lacks rounds goes first."""

    def __init__(self, asked: Iterator[tuple[int, Asked]], options: BenchOptions, boards: int) -> None:
        self._asked, self._options, self._boards = asked, options, boards
        self._open: dict[int, SharedComparison[B]] = {}

    def next_for(self, board: B) -> tuple[int, Round] | None:
        """The number of a comparison, and its round that the board is to do now."""
        for number, comparison in self._open.items():
            if (task := comparison.next_for(board)) is not None:
                return number, task
        if (more := next(self._asked, None)) is None:
            return None
        number, asked = more
        comparison = self._open[number] = SharedComparison(asked, self._options, self._boards)
        task = comparison.next_for(board)
        assert task is not None, "a comparison begins with a round"
        return number, task

    def add(self, number: int, board: B, part: Part, seconds: float) -> SharedComparison[B] | None:
        """A round is done; the comparison where that was its last."""
        comparison = self._open[number]
        comparison.add(board, part, seconds)
        return self._open.pop(number) if comparison.reason else None

    def lose(self, board: B) -> None:
        """The board is gone: of comparisons that are not complete, what it measured."""
        for comparison in self._open.values():
            comparison.lose(board)


def options_of(task: Round, options: BenchOptions) -> BenchOptions:
    """What a board is asked for one round; energy once."""
    return replace(options, only_round=task.number, energy=options.energy and task.number == 0)
