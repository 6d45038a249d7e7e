"""What every place where work runs has in common."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

Send = Callable[[Any], None]
"""Takes a picklable message of a piece of work, while it runs."""


def ignore(_: Any) -> None:
    """A :data:`Send` for messages that nobody wants."""


class Shared(Protocol[T_co]):
    """A value that many pieces of work need, sent to each worker once.  Picklable; pass it as an argument."""

    def get(self) -> T_co:
        """The value; the same object for every piece of work of one worker."""
        ...


class Executor(Protocol):
    """Runs pieces of work, ``workers`` of them at a time.

    ``here``: whether they run on this machine, so that what is measured here meanwhile is disturbed.
    """

    workers: int
    here: bool

    def share(self, value: T) -> Shared[T]:
        """``value`` for the arguments of many pieces of work.  Raises :class:`RecipeError` for what cannot be pickled."""
        ...

    def submit(self, key: str, function: Callable[..., T], *arguments: Any, receive: Send = ignore) -> Future[T]:
        """Run ``function(*arguments, send)``; what it sends arrives at ``receive``, which may be called from another thread of this
        process.

        ``key``: names what is made, for messages, and so that of two answers (a worker that was thought dead may still give one) only the
        first counts. Work is begun in the order of submission. An error of the function is raised by the future with its own class, and is
        not tried again; a worker that dies is replaced and its work begun again, and :class:`WorkerLostError` is raised when that happens
        too often. ``future.cancel()`` ends work that has begun as well.
        """
        ...

    def close(self) -> None:
        """End all work and all workers."""
        ...
