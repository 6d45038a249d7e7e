"""``edgeprune compare``."""

from __future__ import annotations

import click

from edgeprune.cli.options import history_option, json_option
from edgeprune.cli.output import print_json


@click.command(short_help="Compare two measured results.")
@click.argument("a")
@click.argument("b")
@click.option("--force", is_flag=True, help="Compare even if device, runtime, threads or clocks differ.")
@history_option
@json_option
def command(a: str, b: str, force: bool, history: str | None, as_json: bool) -> None:
    """Compare result B with result A: the ratio of latencies with its 99 % interval, and faster, slower, same or inconclusive.

    A and B are ids or labels of `edgeprune history`, latest, latest~1 (the one before), or files that `edgeprune bench --json` printed.
    The interval includes how much results of one model vary between sessions: an assumed figure until the history has enough results.
    To find small differences, use `edgeprune bench B --against A`, which measures both in turns.
    """
    from edgeprune.bench.compare import compare_results, is_file, look_up
    from edgeprune.bench.history import History
    from edgeprune.cli.measured import print_change

    opened = History(history) if history and not (is_file(a) and is_file(b)) else None
    try:
        changes = compare_results(look_up(a, opened), look_up(b, opened), opened, force)
    finally:
        if opened:
            opened.close()
    if as_json:
        print_json([change.to_json() for change in changes])
        return
    for change in changes:
        print_change(change)
