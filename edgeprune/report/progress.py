"""A run's events on a terminal or in a notebook: progress bars, and messages as lines above them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from edgeprune.runs.events import Event, Progress, Warned


class ProgressBars:
    """A listener that shows stages as bars on a rich console; a bar goes when its stage is done."""

    def __init__(self, bars: Any) -> None:
        self._bars = bars
        self._tasks: dict[str, Any] = {}

    def __call__(self, event: Event) -> None:
        """Show an event."""
        if isinstance(event, Progress):
            self._progress(event)
        elif event.text is not None:
            style = "yellow" if isinstance(event, Warned) else None
            self._bars.console.print(event.text, style=style, highlight=False, markup=False)

    def _progress(self, event: Progress) -> None:
        name = event.stage
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(event.label, total=event.total)
        self._bars.update(self._tasks[name], description=event.label, completed=event.done, total=event.total)
        if event.done >= event.total:
            self._bars.remove_task(self._tasks.pop(name))


@contextmanager
def shown_by_default() -> Iterator[ProgressBars | None]:
    """A listener for scripts and notebooks that gave none; None where standard error is neither a terminal nor a notebook."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from edgeprune.report.terminal import PlainConsole

    console = PlainConsole(stderr=True)
    if not (console.is_jupyter or (sys.stderr is not None and sys.stderr.isatty())):
        yield None
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        yield ProgressBars(bars)
