"""An executor of spawned processes, as plain as can be."""

from __future__ import annotations

import multiprocessing
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

from edgeprune.execute import Send, Shared, ignore

_values: dict[bytes, Any] = {}
_queue: Any = None


def _begin(queue: Any) -> None:
    global _queue
    _queue = queue


@dataclass(frozen=True)
class Packed:
    data: bytes

    def get(self) -> Any:
        if self.data not in _values:
            _values[self.data] = pickle.loads(self.data)
        return _values[self.data]


def _work(number: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    try:
        return function(*arguments, lambda message: _queue.put((number, message)))
    finally:
        _queue.put((number, None))


class Spawned:
    """``count`` processes."""

    here = True

    def __init__(self, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.workers, self.submitted = count, list[str]()
        self._queue: Any = context.Queue()
        self._pool = ProcessPoolExecutor(count, context, _begin, (self._queue,))
        self._known: dict[int, tuple[Send, threading.Event]] = {}
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def share(self, value: Any) -> Shared[Any]:
        return Packed(pickle.dumps(value))

    def submit(self, key: str, function: Callable[..., Any], *arguments: Any, receive: Send = ignore) -> Future[Any]:
        number, outer, told = len(self._known), Future[Any](), threading.Event()
        self._known[number] = receive, told
        self.submitted.append(key)
        inner = self._pool.submit(_work, number, function, arguments)

        def done(_: Future[Any]) -> None:
            if inner.cancelled():
                outer.cancel()
                return
            if (error := inner.exception()) is not None:
                outer.set_exception(error)
                return
            told.wait()
            outer.set_result(inner.result())

        inner.add_done_callback(done)
        return outer

    def _listen(self) -> None:
        while (given := self._queue.get()) is not None:
            receive, told = self._known[given[0]]
            told.set() if given[1] is None else receive(given[1])

    def close(self) -> None:
        for process in list((self._pool._processes or {}).values()):
            process.kill()
        self._pool.shutdown(cancel_futures=True)
        self._queue.put(None)
        self._listener.join()
