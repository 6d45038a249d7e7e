"""The columns of progress bars: what has no count shows its time instead."""

from __future__ import annotations

from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class Count(MofNCompleteColumn):
    """Done and total; nothing where there is no total."""

    def render(self, task: Task) -> Text:
        """Of one bar."""
        return Text() if task.total is None else super().render(task)


class Time(TimeRemainingColumn):
    """The time left, and of what has no total the time until now."""

    def render(self, task: Task) -> Text:
        """Of one bar."""
        return Text(f"{task.elapsed or 0.0:.0f} s", style="progress.elapsed") if task.total is None else super().render(task)


def columns() -> tuple[ProgressColumn, ...]:
    """Spinner, description, bar, count and time: at most 80 columns."""
    return SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(16), Count(), Time()
