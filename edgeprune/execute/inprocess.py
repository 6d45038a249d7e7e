"""Work in this process, one piece after another."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from edgeprune.execute.executor import Send, Shared, ignore
from edgeprune.execute.shared import ByKey

T = TypeVar("T")


class InProcess:
    """Runs a piece of work when it is submitted, and returns when it is done."""

    workers, here = 1, True

    def share(self, value: T) -> Shared[T]:
        """The value, kept."""
        return ByKey("of this process", value)

    def submit(self, key: str, function: Callable[..., T], *arguments: Any, receive: Send = ignore) -> Future[T]:
        """A future that is done.  What ends the program (an interrupt) is raised at once."""
        future: Future[T] = Future()
        try:
            future.set_result(function(*arguments, receive))
        except Exception as error:
            future.set_exception(error)
        return future

    def close(self) -> None:
        """There is nothing to end."""
