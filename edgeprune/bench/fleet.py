"""The same work on several devices, side by side."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from edgeprune.devices.events import DeviceEvent, OnEvent
from edgeprune.devices.targets import Target
from edgeprune.errors import DeviceError, EdgepruneError

T = TypeVar("T")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """What became of one device: a ``result``, or the ``error`` that prevented it."""

    target: Target
    result: T | None = None
    error: EdgepruneError | None = None


def side_by_side(
    targets: Sequence[Target], work: Callable[[Target, OnEvent], T], on_event: Callable[[Target, DeviceEvent], None] | None = None
) -> list[Outcome[T]]:
    """Do ``work`` on all targets at once, each in a thread; one outcome for each, in their order.

    A device that fails does not disturb the others.  ``work`` gets a target and a listener for its events; ``on_event`` gets them with the
    target, from any thread, and last ``{"event": "done"}`` or ``{"event": "failed", "message": ...}``.  What ``work`` raises that is not
    an :class:`EdgepruneError` becomes a :class:`DeviceError` with that as its cause; of one target alone it is raised.  What ``on_event``
    raises is logged: progress that cannot be shown costs no result.
    """
    ended: queue.Queue[tuple[int, Outcome[T]]] = queue.Queue()

    def tell(target: Target, event: DeviceEvent) -> None:
        try:
            if on_event:
                on_event(target, event)
        except Exception as error:
            _log.debug("an event of %s could not be reported: %r", target.name, error)

    def one(number: int, target: Target) -> None:
        try:
            outcome = Outcome(target, work(target, lambda event: tell(target, event)))
        except EdgepruneError as error:
            outcome = Outcome(target, error=error)
        except BaseException as error:
            outcome = Outcome(target, error=_fault(error))
        try:
            tell(target, {"event": "failed", "message": outcome.error.message} if outcome.error else {"event": "done"})
        finally:
            ended.put((number, outcome))

    for number, target in enumerate(targets):  # daemons: an interrupt ends them with the process, and with it their holds
        threading.Thread(target=one, args=(number, target), daemon=True).start()
    outcomes = dict(ended.get() for _ in targets)
    if len(targets) == 1 and (error := outcomes[0].error) and isinstance(error, _Fault) and error.__cause__:
        raise error.__cause__
    return [outcome for _, outcome in sorted(outcomes.items())]


class _Fault(DeviceError):
    """A fault of ours on one device of several."""


def _fault(cause: BaseException) -> _Fault:
    fault = _Fault(f"{type(cause).__name__}: {cause}", remedy="This is a fault of edgeprune; --debug with this device alone shows where.")
    fault.__cause__ = cause
    return fault
