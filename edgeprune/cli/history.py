"""``edgeprune history``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgeprune.cli.options import history_option, json_option
from edgeprune.cli.output import console, echo, print_json
from edgeprune.engines import CPU

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeprune.bench.history import Entry


@click.command(short_help="List measured results.")
@click.argument("model", required=False)
@click.option("--target", help="Only results of this target.")
@click.option("--label", help="Only results with this label.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Number of results to list, the newest.")
@history_option
@json_option
def command(model: str | None, target: str | None, label: str | None, limit: int, history: str | None, as_json: bool) -> None:
    """List measured results, the newest first. MODEL (a file's name, or a prefix of its SHA-256) limits the list to one model.

    Results are kept in the user's data folder, or in the database that --history or EDGEPRUNE_HISTORY names.
    """
    from edgeprune.bench.compare import stored
    from edgeprune.bench.history import History

    with stored(History(history) if history else None) as opened:
        entries = opened.entries(model, target, label=label, limit=limit)
    if as_json:
        print_json([entry.to_json() for entry in entries])
    elif entries:
        _print(entries)
    else:
        echo("Nothing was measured yet." if model is target is label is None else "Nothing of that kind was measured yet.")


def _print(entries: Sequence[Entry]) -> None:
    from rich.table import Column, Table
    from rich.text import Text

    from edgeprune.budget import format_quantity

    where = any(entry.measurement.accelerator != CPU for entry in entries)
    folded = (Column(name, overflow="fold") for name in ("model", "target"))
    table = Table("id", "measured (UTC)", *folded, *(["accelerator"] if where else []), "threads", "latency", "commit", "label", box=None)
    for entry in entries:
        commit = (entry.commit or "")[:7] + ("+" if (entry.commit or "").endswith("-dirty") else "")
        latency = format_quantity("latency", entry.measurement.latency_ms)
        ran_on = (entry.measurement.accelerator,) if where else ()
        plain = (entry.model_name, entry.target, *ran_on, str(entry.measurement.threads), latency, commit, entry.label or "")
        table.add_row(str(entry.id), f"{entry.measured_at:%Y-%m-%d %H:%M}", *map(Text, plain))
    console().print(table)
