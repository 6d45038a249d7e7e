"""Work that takes long, and the steps of a search between its pieces: several searches go on in one thread, while workers train.

A function that needs work done is a generator (:data:`Steps`): it yields the pieces that it waits for, and goes on when one is done.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar, cast

from edgeprune.execute import Executor, InProcess, Send
from edgeprune.execute.executor import Shared, ignore

T = TypeVar("T")


@dataclass(eq=False)
class Work(Generic[T]):
    """A piece of work for an :class:`Executor`.  ``receive``: gets what it sends, in the thread of the search; ``keep``: gets it first,
    in whatever thread it arrives, and says whether that was all; the work ends with what it raises."""

    key: str
    function: Callable[..., T]
    arguments: tuple[Any, ...] = ()
    receive: Send = ignore
    keep: Callable[[Any], bool] = lambda _: False
    future: Future[T] | None = None

    @property
    def done(self) -> bool:
        """Whether there is a result, or an error."""
        return self.future is not None and self.future.done()

    def steps(self) -> Steps[T]:
        """Wait until it is done; its result, or the error that it raises."""
        while not self.done:
            yield [self]
        assert self.future is not None
        return self.future.result()


Steps = Generator[list[Work[Any]], None, T]
"""A search on its way to a ``T``; it yields the work that it waits for."""


class Workers:
    """Where the work of a command is done, and the thread that waits for it.

    ``quiet``: what is measured while others train is disturbed: nothing goes on until all work that is begun is done.
    """

    def __init__(self, executor: Executor | None = None, quiet: bool = False) -> None:
        self.executor: Executor = executor or InProcess()
        self.alone = isinstance(self.executor, InProcess)
        self.quiet = quiet and self.executor.here and not self.alone
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._thread = threading.get_ident()
        self._begun: set[Work[Any]] = set()
        self._shared: dict[int, tuple[object, Shared[Any]]] = {}

    @property
    def free(self) -> int:
        """Workers that have nothing to do."""
        return max(0, self.executor.workers - sum(not work.done for work in self._begun))

    def share(self, value: T) -> Shared[T]:
        """``value`` for the arguments of work; the same object is sent once."""
        if id(value) not in self._shared:
            self._shared[id(value)] = (value, self.executor.share(value))
        return cast("Shared[T]", self._shared[id(value)][1])

    def run(self, steps: Steps[T]) -> T:
        """Go through ``steps`` to their end.  What ends the waiting (an interrupt) is raised in them; all work ends with them."""
        try:
            waiting = next(steps)
            while True:
                try:
                    self._wait(waiting, all if self.quiet else any)
                except BaseException as error:
                    waiting = steps.throw(error)
                else:
                    waiting = next(steps)
        except StopIteration as end:
            return cast("T", end.value)
        finally:
            for work in self._begun:
                if work.future is not None:
                    work.future.cancel()
            self._begun.clear()

    def each(self, works: Sequence[Work[T]], on_done: Callable[[int], None] = ignore) -> list[Future[T]]:
        """What short work comes to, done side by side; nothing else goes on meanwhile.  ``on_done``: gets how many are done."""
        left = list(works)
        while left:
            self._wait(left, any)
            left = [work for work in left if not work.done]
            on_done(len(works) - len(left))
        return [work.future for work in works if work.future is not None]

    def together(self, branches: Sequence[Steps[T]]) -> Steps[list[T]]:
        """Several searches side by side, one after another where there is nobody else to work.

        An error in one, or what is raised while all wait, is raised in the others as an interruption.
        """
        if self.alone:
            results = []
            for branch in branches:
                results.append((yield from branch))
            return results
        return (yield from self._side_by_side(branches))

    def _side_by_side(self, branches: Sequence[Steps[T]]) -> Steps[list[T]]:
        results: dict[int, T] = {}
        waiting: dict[int, list[Work[Any]]] = {}

        def advance(number: int) -> None:
            waiting.pop(number, None)
            try:
                waiting[number] = next(branches[number])
            except StopIteration as end:
                results[number] = end.value
            else:
                for work in waiting[number] if not self.quiet else []:
                    self._begin(work)

        try:
            for number in range(len(branches)):
                advance(number)
            while waiting:
                yield [work for works in waiting.values() for work in works]
                for number in [number for number, works in waiting.items() if any(work.done for work in works)]:
                    advance(number)
        except BaseException as error:
            for number in waiting:
                _interrupt(branches[number], error)
            raise
        return [results[number] for number in range(len(branches))]

    def _wait(self, works: Sequence[Work[Any]], enough: Callable[[Iterator[bool]], bool]) -> None:
        """Begin what is not begun, and wait; what arrives meanwhile, from any work, is passed on."""
        for work in works:
            self._begin(work)
        while not enough(work.done for work in works):
            self._inbox.get()()
        with suppress(Empty):
            while True:
                self._inbox.get_nowait()()
        self._begun = {work for work in self._begun if not work.done}

    def _begin(self, work: Work[Any]) -> None:
        if work.future is not None:
            return

        def received(message: Any) -> None:
            if work.keep(message):
                return
            if threading.get_ident() == self._thread:
                work.receive(message)
            else:
                self._inbox.put(partial(work.receive, message))

        work.future = self.executor.submit(work.key, work.function, *work.arguments, receive=received)
        self._begun.add(work)
        work.future.add_done_callback(lambda _: self._inbox.put(lambda: None))


def _interrupt(steps: Steps[Any], error: BaseException) -> None:
    """End a search because of ``error`` elsewhere, which says how to continue if nothing said so yet."""
    told = KeyboardInterrupt(*([f"what ran beside it ended with: {error}"] if isinstance(error, Exception) else error.args))
    try:
        steps.throw(told)
    except BaseException as ended:
        for note in getattr(ended, "__notes__", [])[: 0 if getattr(error, "__notes__", []) else 1]:
            error.add_note(note)
