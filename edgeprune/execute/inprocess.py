"""Work in this process, one piece after another."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from edgeprune.execute.executor import Send, Shared, ignore

T = TypeVar("T")


@dataclass(frozen=True)
class Held(Generic[T]):
    """A shared value of the same process."""

    value: T

    def get(self) -> T:
        """The value itself."""
        return self.value


class InProcess:
    """Runs a piece of work when it is submitted, and returns when it is done."""

    workers, here = 1, True

    def share(self, value: T) -> Shared[T]:
        """The value, kept."""
        return Held(value)

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
