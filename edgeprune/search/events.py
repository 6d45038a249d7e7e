"""Who hears of a run's events."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

from edgeprune.report.progress import shown_by_default
from edgeprune.runs.events import EpochEnded, Event, Noted, Phase, PhaseStarted, Progress, Warned

Listener = Callable[[Event], None]
"""Gets every event of a run, in its thread."""


class EventStream:
    """Passes every event on to its ``listeners``, in order."""

    def __init__(self, *listeners: Listener) -> None:
        self._listeners = listeners

    def emit(self, event: Event) -> None:
        """Something has happened."""
        for listener in self._listeners:
            listener(event)

    def also(self, *listeners: Listener) -> EventStream:
        """A stream for these as well."""
        return EventStream(*self._listeners, *listeners)

    def note(self, text: str) -> None:
        """A message for the user."""
        self.emit(Noted(text))

    def warn(self, text: str) -> None:
        """A message that the user should act on."""
        self.emit(Warned(text))

    def begin(self, phase: Phase, subject: str) -> None:
        """A phase begins."""
        self.emit(PhaseStarted(phase, subject))

    def progress(self, stage: str, done: int, total: int, loss: float | None = None, detail: str | None = None) -> None:
        """``stage`` has come to ``done`` of ``total``."""
        self.emit(Progress(stage, done, total, loss, detail))

    def training(self, stage: str, epochs: float, metric: str) -> dict[str, Any]:
        """Arguments of ``finetune`` that make events of its steps and of each of its ``epochs``; ``metric``: the name of the score."""

        def epoch_ended(entry: Mapping[str, float | None]) -> None:
            epoch, step = int(entry["epoch"] or 0), int(entry["step"] or 0)
            figures = (entry["loss"], entry["learning_rate"], entry["score"])
            self.emit(EpochEnded(stage, epoch, math.ceil(epochs), step, *figures, metric))

        return {"on_progress": lambda done, total, loss: self.progress(stage, done, total, loss), "on_epoch": epoch_ended}


SILENT = EventStream()
"""Tells nobody."""


class Mingled:
    """Several runs tell one stream what happens in them, in turns: what is a line for a person says of which run it is."""

    def __init__(self, events: EventStream) -> None:
        self._events, self._last = events, ""

    def of(self, name: str) -> EventStream:
        """A stream for the run of that name."""

        def tell(event: Event) -> None:
            if isinstance(event, Progress | EpochEnded):
                event = replace(event, stage=f"{name}: {event.stage}")
            elif event.text is not None and self._last != name:
                self._last = name
                self._events.note(f"== {name}")
            self._events.emit(event)

        return EventStream(tell)


class Notes(Protocol):
    """A listener as an object, for who only wants lines and progress."""

    def progress(self, stage: str, done: int, total: int) -> None:
        """``stage`` has come to ``done`` of ``total``."""
        ...

    def note(self, text: str) -> None:
        """A line for a person."""
        ...


def stream_to(listener: Listener | Notes) -> EventStream:
    """A stream to ``listener``: a function of events, or an object with ``note`` and ``progress``."""
    if callable(listener):
        return EventStream(listener)

    def adapted(event: Event) -> None:
        if isinstance(event, Progress):
            listener.progress(event.label, event.done, event.total)
        elif event.text is not None:
            listener.note(event.text)

    return EventStream(adapted)


@contextmanager
def heard(listener: Listener | Notes | None) -> Iterator[EventStream]:
    """A stream to ``listener``; without one to bars on a terminal or in a notebook, and to nobody elsewhere."""
    if listener is not None:
        yield stream_to(listener)
        return
    with shown_by_default() as bars:
        yield SILENT if bars is None else EventStream(bars)
