"""The same work on several devices, side by side."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from edgeprune.devices.runner import OnEvent
from edgeprune.devices.targets import Target
from edgeprune.errors import EdgepruneError

T = TypeVar("T")


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """What became of one device: a ``result``, or the ``error`` that prevented it."""

    target: Target
    result: T | None = None
    error: EdgepruneError | None = None


def side_by_side(
    targets: Sequence[Target], work: Callable[[Target, OnEvent], T], on_event: Callable[[Target, dict[str, Any]], None] | None = None
) -> list[Outcome[T]]:
    """Do ``work`` on all targets at once, each in a thread; one outcome for each, in their order.

    A device that fails does not disturb the others.  ``work`` gets a target and where to tell its events; ``on_event`` gets them with their
    target, from any thread, and last ``{"event": "done"}`` or ``{"event": "failed", "message": ...}``.  What is no
    :class:`EdgepruneError` is raised when all have ended.
    """
    ended: queue.Queue[tuple[int, Outcome[T] | BaseException]] = queue.Queue()

    def tell(target: Target, event: dict[str, Any]) -> None:
        if on_event:
            on_event(target, event)

    def one(number: int, target: Target) -> None:
        outcome: Outcome[T] | BaseException
        try:
            outcome = Outcome(target, work(target, lambda event: tell(target, event)))
            tell(target, {"event": "done"})
        except EdgepruneError as error:
            outcome = Outcome(target, error=error)
            tell(target, {"event": "failed", "message": error.message})
        except BaseException as error:  # a fault of ours: raised in the caller's thread
            outcome = error
        ended.put((number, outcome))

    for number, target in enumerate(targets):  # daemons: an interrupt ends them with the process, and with it their holds
        threading.Thread(target=one, args=(number, target), daemon=True).start()
    outcomes = dict(ended.get() for _ in targets)
    for outcome in outcomes.values():
        if isinstance(outcome, BaseException):
            raise outcome
    return [item for _, item in sorted(outcomes.items()) if isinstance(item, Outcome)]
