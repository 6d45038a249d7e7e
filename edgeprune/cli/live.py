"""Live progress of one device or several on stderr: a line with a bar for each, or plain lines if stderr is not a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeprune.devices import Target
    from edgeprune.devices.events import DeviceEvent

Watch = Callable[["Target", "DeviceEvent"], None]

_TEXTS = {
    "waiting": "waiting: in use by {holder}",
    "upload": "sending {name}",
    "measuring": "measuring {name}",
    "measured": "{name}: {median_ms:.3f} ms",
    "period": "under load: {number} of {rounds} s",
    "round": "comparing: round {number}",
    "looking": "checking what is there",
    "staging": "unpacking and verifying {name}",
    "health": "checking that {name} works",
    "switching": "switching to {name}",
    "committing": "committing {name}",
    "cooling": "waiting until it is no longer throttled",
    "done": "done",
    "failed": "failed: {message}",
}


@contextmanager
def watch(targets: Sequence[Target]) -> Iterator[Watch]:
    """A context that gives a function for the events of these targets; the bars vanish at the end."""
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
    from rich.text import Text

    from edgeprune.report.terminal import PlainConsole

    console = PlainConsole(stderr=True)
    if not console.is_terminal:
        yield _plain(console, several=len(targets) > 1)
        return
    columns = (SpinnerColumn(), TextColumn("{task.fields[target]}"), BarColumn(20), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=console, transient=True) as bars:
        rows = {target: bars.add_task("connecting", total=None, target=Text(target.name).markup) for target in targets}

        def show(target: Target, event: DeviceEvent) -> None:
            if text := text_of(event):
                ended = event["event"] in ("done", "failed")
                done, total = (1, 1) if ended else (event.get("sent", event.get("number", 0)), event.get("total", event.get("rounds")))
                bars.update(rows[target], description=text, completed=done, total=total)

        yield show


def text_of(event: DeviceEvent) -> str | None:
    """An event in words, or None when it is not shown."""
    text = _TEXTS.get(event["event"])
    try:
        return text.format(**event) if text else None
    except (LookupError, ValueError, TypeError):  # a device's event that lacks what is shown
        return None


def _plain(console: Any, several: bool) -> Watch:
    """One line when a device begins something else; of one device alone, only what it waits for."""
    last: dict[Target, str] = {}

    def show(target: Target, event: DeviceEvent) -> None:
        text = text_of(event)
        if text and last.get(target) != text and (several or event["event"] == "waiting"):
            last[target] = text
            console.print(f"{target.name}  {text}", markup=False, highlight=False, soft_wrap=True)

    return show
