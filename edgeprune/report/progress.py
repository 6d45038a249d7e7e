"""A run's events on a terminal or in a notebook: the phases with their times as lines, and below them what goes on, which never stands
still; elsewhere lines alone."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from edgeprune.runs.events import PLANS, ROUNDS, EpochEnded, Event, PhaseStarted, Progress, RunEnded, Warned

Volume = Literal["quiet", "normal", "verbose"]
"""How much is told: warnings alone; phases and messages; every step as well."""

SILENCE_S = 8.0
"""After so long without a line, what goes on is told again where nothing moves on a screen."""


class Phases:
    """What a run is doing: the phase, since when, and how far; in words."""

    def __init__(self) -> None:
        self.text, self.begun, self.step = "", time.monotonic(), ""
        self._plan = 0

    def take(self, event: Event) -> str | None:
        """Take an event in; the line of the phase that it ends, with its time."""
        ended = None
        if isinstance(event, PhaseStarted | RunEnded):
            ended = self.line()
            self.text, self.begun, self.step = event.text or "", time.monotonic(), ""
        elif isinstance(event, Progress):
            self._plan = event.done + 1 if event.stage == PLANS else self._plan
            self.step = "" if event.done >= event.total else self.of_progress(event)
        return ended

    def of_progress(self, event: Progress) -> str:
        """``plan 2: round 3 of 8, 49.1 % [47, 52]``, or the stage with its count."""
        if event.stage == ROUNDS:
            known = f", {event.detail}" if event.detail else ""
            return f"{f'plan {self._plan}: ' if self._plan else ''}round {event.done} of {event.total}{known}"
        return f"{event.label}, {event.done} of {event.total}"

    def line(self) -> str | None:
        """The phase that goes on and its time until now; None before the first."""
        return f"{self.text}, {_duration(time.monotonic() - self.begun)}" if self.text else None

    def now(self) -> str:
        """The phase, its time, and how far it is."""
        return f"{self.line() or 'starting'}{f': {self.step}' if self.step else ''}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


class ProgressBars:
    """A listener that shows stages as bars on a rich console, and the phase above them with its time; a bar goes when its stage is done."""

    def __init__(self, bars: Any, volume: Volume = "normal") -> None:
        self._bars, self._volume = bars, volume
        self._tasks: dict[str, Any] = {}
        self._phases = Phases()

    def __call__(self, event: Event) -> None:
        """Show an event."""
        ended = self._phases.take(event)
        if self._volume == "quiet" and not isinstance(event, Warned):
            return
        if ended:
            self._bars.console.print(ended, highlight=False, markup=False)
        if isinstance(event, Progress):
            self._progress(event)
        elif isinstance(event, PhaseStarted):
            self._phase(str(event.text))
        elif isinstance(event, RunEnded):
            self._drop("")
        elif event.text is not None:
            style = "yellow" if isinstance(event, Warned) else None
            self._bars.console.print(event.text, style=style, highlight=False, markup=False)

    def _phase(self, text: str) -> None:
        """A line without a count, whose time goes on."""
        self._drop("")
        self._tasks[""] = self._bars.add_task(text, total=None)

    def _drop(self, name: str) -> None:
        if name in self._tasks:
            self._bars.remove_task(self._tasks.pop(name))

    def _progress(self, event: Progress) -> None:
        name = event.stage
        label = self._phases.of_progress(event) if name == ROUNDS else event.label
        if self._volume == "verbose":
            self._bars.console.print(f"  {self._phases.of_progress(event)}", highlight=False, markup=False)
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(label, total=event.total)
        self._bars.update(self._tasks[name], description=label, completed=event.done, total=event.total)
        if event.done >= event.total:
            self._drop(name)


class Lines:
    """A listener that prints lines, for files and pipes: each phase as it begins, with the time since the start, and, where nothing was
    printed for :data:`SILENCE_S`, what goes on.  To be used in a ``with``."""

    def __init__(self, show: Callable[[str], None], volume: Volume = "normal", silence_s: float = SILENCE_S) -> None:
        self._show, self._volume, self._silence_s = show, volume, silence_s
        self._begun = self._last = time.monotonic()
        self._phases, self._guard, self._over = Phases(), threading.Lock(), threading.Event()
        self._shown: dict[str, int] = {}
        self._watcher = threading.Thread(target=self._watch, name="progress lines", daemon=True)

    def __enter__(self) -> Lines:
        if self._volume != "quiet":
            self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def __call__(self, event: Event) -> None:
        """Show an event."""
        with self._guard:
            self._phases.take(event)
            if self._volume == "quiet" and not isinstance(event, Warned):
                return
            if isinstance(event, Progress):
                if self._volume == "verbose" and self._advanced(event):
                    self._print(self._phases.of_progress(event))
            elif event.text is not None and (self._volume == "verbose" or not isinstance(event, EpochEnded) or self._advanced_epoch(event)):
                self._print(event.text)

    def _advanced(self, event: Progress) -> bool:
        """Whether it is another tenth of its stage."""
        tenth = 10 * event.done // max(event.total, 1)
        known, self._shown[event.stage] = self._shown.get(event.stage), tenth
        return known != tenth

    def _advanced_epoch(self, event: EpochEnded) -> bool:
        """Every tenth of many epochs."""
        return self._advanced(Progress(f"{event.stage} epochs", event.epoch, event.epochs))

    def _print(self, text: str) -> None:
        self._last = time.monotonic()
        seconds = int(self._last - self._begun)
        self._show(f"{seconds // 60}:{seconds % 60:02} {text}")

    def _watch(self) -> None:
        while not self._over.wait(min(1.0, self._silence_s / 2)):
            with self._guard:
                if time.monotonic() - self._last >= self._silence_s and not self._over.is_set():
                    self._print(f"... {self._phases.now()}")


@contextmanager
def shown_by_default() -> Iterator[ProgressBars | None]:
    """A listener for scripts and notebooks that gave none; None where standard error is neither a terminal nor a notebook."""
    from rich.progress import Progress as Bars

    from edgeprune.report.columns import columns
    from edgeprune.report.terminal import PlainConsole

    console = PlainConsole(stderr=True)
    if not (console.is_jupyter or (sys.stderr is not None and sys.stderr.isatty())):
        yield None
        return
    with Bars(*columns(), console=console, transient=True) as bars:
        yield ProgressBars(bars)
