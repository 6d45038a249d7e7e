"""What commands print: results on stdout, all else (progress, errors) on stderr."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import click

from edgeprune.cli.options import Settings
from edgeprune.decode import JsonObject
from edgeprune.errors import EdgepruneError, printable

if TYPE_CHECKING:
    from edgeprune.devices.events import DeviceEvent, OnEvent


def print_json(document: Any) -> None:
    """Print ``document`` on stdout as one JSON document. Data classes become objects, paths strings, and non-finite numbers null."""
    context = click.get_current_context(silent=True)
    stream = context.meta.get("edgeprune.stdout") if context else None
    text = json.dumps(_plain(document), indent=2, ensure_ascii=False, allow_nan=False)
    print("".join(map(_escaped, text)) if not text.isascii() else text, file=stream or sys.stdout, flush=True)
    if context and isinstance(context.obj, Settings):
        context.obj.printed = True


def print_failure(error: BaseException, code: int, settings: Settings) -> None:
    """Print what ended a command as its JSON document, where one is wanted and none was printed yet."""
    if settings.json and not settings.printed:
        message = error.format_message() if isinstance(error, click.ClickException) else getattr(error, "message", str(error))
        document = {"kind": type(error).__name__, "message": message, "remedy": getattr(error, "remedy", None)}
        print_json({"error": document | {"notes": getattr(error, "__notes__", [])}, "exit_code": code})


def _escaped(character: str) -> str:
    """A character of a JSON text; what controls a terminal, or the direction of writing, as an escape of JSON."""
    if character.isascii() or printable(character) == character:
        return character
    return json.dumps(character)[1:-1]


def echo(text: str, err: bool = False) -> None:
    """Print a line, harmless to a terminal."""
    click.echo(printable(text), err=err)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if hasattr(value, "tolist"):  # numpy's and torch's scalars and arrays
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [_plain(inner) for inner in value]
    return value


def show_error(message: str, remedy: str | None = None, notes: Sequence[str] = ()) -> None:
    """Print one error on stderr: what happened, what to do about it, what was kept."""
    from rich.text import Text

    from edgeprune.report.terminal import PlainConsole

    text = Text.assemble(("error: ", "bold red"), printable(message))
    for line in (remedy, *notes):
        if line:
            text.append(f"\n{printable(line)}", style="dim" if line is not remedy else "")
    PlainConsole(stderr=True).print(text, soft_wrap=True)


def error_json(error: EdgepruneError | None) -> JsonObject:
    """An error as a part of a JSON document."""
    return {} if error is None else {"error": {"kind": type(error).__name__, "message": error.message, "remedy": error.remedy}}


def failures_code(errors: Sequence[EdgepruneError | None]) -> int:
    """The exit code of work on several devices: 0, or 10 and the number of those that failed (69 at most)."""
    failed = sum(error is not None for error in errors)
    return 10 + min(failed, 59) if failed else 0


def console() -> Any:
    """A rich console for results, on stdout."""
    from edgeprune.report.terminal import PlainConsole

    return PlainConsole()


def progress() -> Any:
    """A rich progress bar on stderr, to be used in a ``with``: spinner, description, bar, count, and time left or taken."""
    from rich.progress import Progress

    from edgeprune.report.columns import columns
    from edgeprune.report.terminal import PlainConsole

    return Progress(*columns(), console=PlainConsole(stderr=True), transient=True)


@contextmanager
def transfer_progress(first: str) -> Iterator[OnEvent]:
    """A progress bar on stderr for the events of a setup, whose uploads are counted in bytes; ``first``: what is being done now."""
    from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn

    from edgeprune.report.terminal import PlainConsole

    texts = {
        "fetching": "fetching {name}",
        "upload": "sending {name}",
        "installing": "installing {name}",
        "verifying": "importing what was installed",
        "waiting": "waiting: in use by {holder}",
    }
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn())
    with Progress(*columns, console=PlainConsole(stderr=True), transient=True) as bar:
        task = bar.add_task(first, total=None)

        def show(event: DeviceEvent) -> None:
            if text := texts.get(event["event"]):
                bar.update(task, description=text.format(**event), completed=event.get("sent", 0), total=event.get("total"))

        yield show
