"""What executors with workers of their own have in common: an order of work, attempts, cancelling, one answer for each future."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

from edgeprune.errors import WorkerError, WorkerLostError
from edgeprune.execute.executor import Send, ignore
from edgeprune.execute.shared import ByKey, key_of
from edgeprune.execute.work import Done, Failed, Message, read
from edgeprune.packing import packed

T = TypeVar("T")

ATTEMPTS: Final = 3
"""How many workers may be lost by one piece of work."""


class Lost(Exception):
    """A worker died in the middle of its work.  ``how``: which and by what, as a sentence without its end; ``memory``: for lack of it."""

    def __init__(self, how: str, memory: bool = False) -> None:
        super().__init__(how)
        self.how, self.memory = how, memory


class Job(Future[Any]):
    """A piece of work and its future.  ``pack``: pickles it, for each attempt: what it starts from may be further by then. ``stop``: ends
    what does it."""

    def __init__(self, key: str, pack: Callable[[], bytes], receive: Send, stop: Callable[[Job], None]) -> None:
        super().__init__()
        self.key, self.pack, self.work, self.receive, self.begun = key, pack, pack(), receive, False
        self._stop, self._once = stop, threading.Lock()

    def running(self) -> bool:
        """Whether it has begun, and is not done."""
        return self.begun and not self.done()

    def cancel(self) -> bool:
        """Cancel it, even if it has begun; False when it is done."""
        if not super().cancel():
            return False
        if self._once.acquire(blocking=False):
            self.set_running_or_notify_cancel()  # wakes those who wait for it
            self._stop(self)
        return True

    def settle(self, result: Any = None, error: BaseException | None = None) -> None:
        """Take the answer, unless there is one already."""
        with suppress(InvalidStateError):
            self.set_exception(error) if error is not None else self.set_result(result)


class Pool(ABC):
    """Does ``workers`` pieces of work at a time, each in a slot that a thread of this process follows; slots are made when first needed."""

    here = True
    _otherwise = "use one worker"
    _folders: list[str] | None = None
    """Where workers import modules from, see :func:`edgeprune.packing.packed`."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._queue: deque[Job] = deque()
        self._slots: list[Job | None] = []
        self._idle, self._closed = 0, False
        self._changed = threading.Condition(threading.RLock())

    @abstractmethod
    def _frames(self, slot: int, job: Job) -> Iterator[bytes]:
        """Begin the work in that slot, and give what it tells until it has ended.  Raises :class:`Lost` and :class:`WorkerError`."""

    @abstractmethod
    def _end(self, slot: int) -> None:
        """End the work of that slot at once, so that :meth:`_frames` ends or raises."""

    @abstractmethod
    def _keep(self, key: str, data: bytes) -> None:
        """Make a shared value known to all workers."""

    def share(self, value: T) -> ByKey[T]:
        """See :class:`Executor`."""
        data = packed(value, self._otherwise, self._folders)
        self._keep(key := key_of(data), data)
        return ByKey(key, value)

    def submit(self, key: str, function: Callable[..., T], *arguments: Any, receive: Send = ignore) -> Future[T]:
        """See :class:`Executor`.  Raises :class:`RecipeError` for what cannot be pickled.  When a worker was lost, ``receive`` hears of the
        next attempt from its beginning."""
        job = Job(key, partial(packed, (function, arguments), self._otherwise, self._folders), receive, self._stop)
        with self._changed:
            if self._closed:
                raise WorkerError(f"{key} cannot be begun: the workers have been ended")
            self._queue.append(job)
            if self._idle < len(self._queue) and len(self._slots) < self.workers:
                self._slots.append(None)
                threading.Thread(target=self._serve, args=(len(self._slots) - 1,), name=f"worker {len(self._slots)}", daemon=True).start()
            self._changed.notify()
        return job

    def close(self) -> None:
        """See :class:`Executor`."""
        with self._changed:
            self._closed = True
            jobs = [*self._queue, *(job for job in self._slots if job is not None)]
            self._queue.clear()
            self._changed.notify_all()
        for job in jobs:
            job.cancel()

    def _stop(self, job: Job) -> None:
        with self._changed:
            if job in self._slots:
                self._end(self._slots.index(job))

    def _serve(self, slot: int) -> None:
        while (job := self._next(slot)) is not None:
            try:
                self._do(slot, job)
            except BaseException as error:
                job.settle(error=error)
            job.work = b""  # its future may be kept for long
            with self._changed:
                self._slots[slot] = None

    def _next(self, slot: int) -> Job | None:
        with self._changed:
            self._idle += 1
            self._changed.wait_for(lambda: self._queue or self._closed)
            self._idle -= 1
            if self._closed:
                return None
            job = self._slots[slot] = self._queue.popleft()
            job.begun = True
            return job

    def _do(self, slot: int, job: Job) -> None:
        """Attempt it until it answers.  Raises :class:`WorkerLostError` after too many attempts."""
        for attempt in range(1, ATTEMPTS + 1):
            if job.done():
                return
            try:
                return self._attempt(slot, job)
            except Lost as lost:
                if attempt == ATTEMPTS and not job.done():
                    raise _lost(job.key, lost) from None
                job.work = job.pack()

    def _attempt(self, slot: int, job: Job) -> None:
        for data in self._frames(slot, job):
            frame = read(data)
            if job.done():  # it was cancelled meanwhile
                return self._stop(job)
            match frame:
                case Message(value):
                    try:
                        job.receive(value)
                    except BaseException:
                        self._stop(job)
                        raise
                case Done(value):
                    return job.settle(value)
                case Failed():
                    return job.settle(error=frame.error())
        if not job.done():
            raise Lost("the worker ended without an answer")


def _lost(key: str, lost: Lost) -> WorkerLostError:
    fewer = "Give fewer workers, or a machine with more memory, then resume." if lost.memory else "Resume with fewer workers, or with one."
    return WorkerLostError(f"{key} was given up after {ATTEMPTS} attempts, each of which lost its worker; at last {lost.how}", remedy=fewer)
