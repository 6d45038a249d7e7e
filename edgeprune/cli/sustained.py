"""``edgeprune bench --sustained``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune.cli.live import watch
from edgeprune.cli.output import console, echo, error_json, failures_code, print_json, show_error
from edgeprune.errors import InputError

if TYPE_CHECKING:
    from edgeprune.bench import Artifact, BenchOptions
    from edgeprune.bench.sustained import Curve, Sustained
    from edgeprune.devices import Target

_ROWS = 10
_BLOCKS = "▁▂▃▄▅▆▇█"


def run(
    models: Sequence[Artifact],
    targets: Sequence[Target],
    duration_s: float,
    options: BenchOptions,
    as_json: bool,
    report: Path | None = None,
) -> int:
    """Keep the targets under load side by side, and show what became of the latencies; the exit code.  ``report``: a page of the first."""
    if report is not None and not report.absolute().parent.is_dir():
        raise InputError(f"there is no folder {report.absolute().parent}", remedy="Make it first: --report writes a file into it.")
    from edgeprune.bench.fleet import side_by_side
    from edgeprune.bench.sustained import sustained

    with watch(targets) as show:
        outcomes = side_by_side(targets, lambda target, tell: sustained(models, duration_s, target.name, options, tell), show)
    if len(outcomes) == 1 and outcomes[0].error:
        raise outcomes[0].error
    if report is not None and outcomes[0].result:
        from edgeprune.report.sustained import write_sustained

        write_sustained(outcomes[0].result, report)
    if as_json:
        documents = [(one.result.to_json() if one.result else {"target": one.target.name}) | error_json(one.error) for one in outcomes]
        print_json(documents[0] if len(documents) == 1 else {"devices": documents})
    for one in outcomes:
        if one.error:
            show_error(f"{one.target.name}: {one.error.message}", one.error.remedy)
        elif one.result and not as_json:
            print_sustained(one.result)
    return failures_code([one.error for one in outcomes])


def print_sustained(found: Sustained) -> None:
    """The curve in ten rows, what became of each model, and whether the ranking stayed."""
    from rich.table import Table

    out = console()
    out.print(
        f"{found.target}  {found.identity}, {found.threads} thread{'s'[: found.threads > 1]}, {_clock(found.duration_s)} min under load"
    )
    table = Table("time", *(curve.name for curve in found.curves), "temperature", "clock")
    for number in range(_ROWS):
        begin, end = (found.duration_s * part / _ROWS for part in (number, number + 1))
        states = [state for state in found.states if begin < state.time_s <= end]
        cells = [_latency(curve, begin, end) for curve in found.curves]
        if any(cells):
            hottest = max((state.hottest_c for state in states if state.hottest_c is not None), default=None)
            slowest = min((state.clock_mhz for state in states if state.clock_mhz is not None), default=None)
            heat = f"{hottest:.0f} C" if hottest is not None else "unknown"
            table.add_row(_clock(end), *cells, heat, f"{slowest:.0f} MHz" if slowest is not None else "unknown")
    out.print(table)
    for curve in found.curves:
        first, last = found.first_ms(curve), found.last_ms(curve)
        share = f"{last / first - 1:+.1%}"
        echo(f"{curve.name}: {first:.4g} ms at first, {last:.4g} ms at last ({share}): {found.change(curve)}  {_line(curve)}")
    if len(found.curves) > 1:
        kept, first_names = found.ranking("first") == found.ranking("last"), " < ".join(found.ranking("first"))
        echo(f"ranking: {first_names}" + (", the same at last" if kept else f" at first, {' < '.join(found.ranking('last'))} at last"))
    echo(f"throttled: {'; '.join(found.throttled)}" if found.throttled else "nothing was seen to throttle the device")


def _latency(curve: Curve, begin: float, end: float) -> str:
    """The median of the windows of a row; empty where none ended in it."""
    inside = [point for point in curve.points if begin < point.time_s <= end]
    return f"{curve.latency_ms(inside[0].time_s, inside[-1].time_s):.4g} ms" if inside else ""


def _line(curve: Curve) -> str:
    """The curve in blocks, from zero: a flat line is flat."""
    step = -(-len(curve.points) // 40)
    values = [point.median_ns for point in curve.points[::step]]
    return "".join(_BLOCKS[round(7 * value / max(values))] for value in values)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
