"""Boards that work side by side."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from edgeprune.errors import TransientError
from edgeprune.runs.events import Event, Progress
from edgeprune.search.events import EventStream
from edgeprune.search.measure.board import Board

S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True)
class _Ended(Generic[S]):
    """What became of a task: a ``result``, or the ``error`` that prevented it."""

    board: Board
    task: S
    result: Any = None
    error: BaseException | None = None


class Crew:
    """One thread a board while it has something to do; all else, what ``events`` hears too, happens in the caller's thread.

    A board that goes away (:class:`TransientError`: unreachable, in use by others for too long) is left out from then on, which is said
    once; what it had to do is done by the others. ``boards``: those that are there.
    """

    def __init__(self, targets: Sequence[str], make: Callable[[str, EventStream], Board], events: EventStream) -> None:
        self._events = events
        self._inbox: queue.SimpleQueue[Event | _Ended[Any]] = queue.SimpleQueue()
        self.all = [make(target, EventStream(self._listener(target))) for target in targets]
        self.boards = list(self.all)
        self._gone: TransientError | None = None
        self._working, self._unwanted, self._lock = set[Board](), set[Board](), threading.Lock()

    def _listener(self, target: str) -> Callable[[Event], None]:
        """Takes a board's events to the caller's thread; a stage of one board has a name of its own."""

        def hear(event: Event) -> None:
            self._inbox.put(replace(event, stage=f"{event.stage} to {target}") if isinstance(event, Progress) else event)

        return hear

    def each(self, work: Callable[[Board], T]) -> dict[Board, T]:
        """``work`` done once by every board; the results of those that are there afterwards, in order.  Raises what the last one
        raised when there is none."""
        waiting = set(self.boards)

        def pick(board: Board) -> Board | None:
            if board not in waiting:
                return None
            waiting.discard(board)
            return board

        results = {board: result for board, _, result in self.run(pick, lambda *_: None, lambda board, _: work(board))}
        return {board: results[board] for board in self.boards}

    def share(self, tasks: Iterable[S], work: Callable[[Board, S], T], only: Board | None = None) -> Iterator[tuple[Board, S, T]]:
        """``tasks`` shared out: whichever board is free does the next one; each with its result as it comes.

        ``only``: the board that does them all, as long as it is there. The next task is made while boards work. Raises what ``work``
        raises, after the results of what was begun, and :class:`TransientError` when no board is left.
        """
        coming, back = iter(tasks), list[S]()

        def pick(board: Board) -> S | None:
            if only is not None and only in self.boards and board is not only:
                return None
            return back.pop(0) if back else next(coming, None)

        return self.run(pick, lambda _, task: back.append(task), work)

    def run(
        self, pick: Callable[[Board], S | None], lose: Callable[[Board, S], None], work: Callable[[Board, S], T]
    ) -> Iterator[tuple[Board, S, T]]:
        """What ``pick`` gives boards to do, each with its result as it comes, until all have had None.  A board that has nothing to do is
        asked again after each result.  ``lose``: gets a board that went away, and what it had to do.  Raises as :meth:`share` does."""
        inbox: queue.SimpleQueue[Event | _Ended[Any]] = queue.SimpleQueue()
        self._inbox = inbox  # what an earlier call left behind, which was interrupted, is not heard
        busy = set[Board]()
        failure: BaseException | None = None if self.boards else self._gone
        while True:
            for board in [] if failure else [one for one in self.boards if one not in busy]:
                if (task := pick(board)) is not None:
                    busy.add(board)
                    self._start(board, task, work, inbox)
            if not busy:
                break
            said = inbox.get()
            if isinstance(said, Event):
                self._events.emit(said)
                continue
            busy.discard(said.board)
            if said.error is None:
                yield said.board, said.task, said.result
            elif isinstance(said.error, TransientError):
                self.boards.remove(said.board)
                self._gone = said.error
                lose(said.board, said.task)
                if self.boards:
                    left = ", ".join(board.target for board in self.boards)
                    self._events.warn(f"{said.board.target} is left out, and measuring goes on with {left}: {said.error.message}")
                else:
                    failure = failure or said.error
            else:
                failure = failure or said.error
        if failure is not None:
            raise failure

    def _start(self, board: Board, task: S, work: Callable[[Board, S], T], inbox: queue.SimpleQueue[Event | _Ended[Any]]) -> None:
        def run() -> None:
            try:
                ended = _Ended(board, task, work(board, task))
            except BaseException as error:
                ended = _Ended(board, task, error=error)
            with self._lock:
                self._working.discard(board)
                unwanted = board in self._unwanted
            if unwanted or ended.error is not None:
                board.release()
            inbox.put(ended)

        with self._lock:
            self._working.add(board)
            self._unwanted.discard(board)
        threading.Thread(target=run, name=f"measuring on {board.target}", daemon=True).start()  # an interrupt ends it with the process

    def release(self) -> None:
        """Let go of all boards; one that still works, after an interruption, lets go of its device when that is done."""
        with self._lock:
            self._unwanted |= self._working
            idle = [board for board in self.all if board not in self._working]
        for board in idle:
            board.release()
