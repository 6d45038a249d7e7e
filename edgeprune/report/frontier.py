"""A sweep over one limit as a table and a chart: accuracy against the limited figure."""

from __future__ import annotations

import json
from collections.abc import Sequence

from markupsafe import Markup
from rich.table import Table

from edgeprune.budget import FIGURES, format_metric, format_quantity
from edgeprune.files import write_atomically
from edgeprune.report import charts
from edgeprune.report.summary import DASH, NOT_MEASURED
from edgeprune.report.templates import render
from edgeprune.runs.summary import ModelSummary
from edgeprune.runs.sweep import Frontier, Point

UNITS = {"latency": "ms", "memory": "bytes", "energy": "mJ", "size": "bytes", "macs": "", "parameters": ""}
HEADINGS = ("limit", "kept", "metric", "latency", "memory", "energy", "size", "MACs", "parameters", "front")


def cells(points: Sequence[Point], kind: str) -> list[list[str]]:
    """A row of text for the dense model and each point."""
    known = next((point.result for point in points if point.result), None)
    rows = [["dense", "100 %", *_figures(known.dense), DASH]] if known else []
    for point in points:
        if point.result is None:
            rows.append([point.level, *[DASH] * 8, "out of reach"])
            continue
        dense, pruned = point.result.dense.of(kind), point.result.pruned.of(kind)
        share = f"{100 * pruned / dense:.1f} %" if dense and pruned is not None else DASH
        said = f"misses {', '.join(point.missed)}" if point.missed else "yes" if point.best else "no"
        rows.append([point.level, share, *_figures(point.result.pruned), said])
    return rows


def _figures(model: ModelSummary) -> list[str]:
    values = {kind: model.of(kind) for kind in FIGURES}
    shown = [DASH if value is None else format_quantity(kind, value) for kind, value in values.items()]
    return [DASH if model.metric is None else format_metric(model.metric), *shown]


def console_frontier(found: Frontier) -> Table:
    """The table for a terminal."""
    table = Table(*HEADINGS, title=f"{_metric(found.points)} at limits of {found.kind} ({_how(found.points)})")
    for row in cells(found.points, found.kind):
        table.add_row(*row)
    return table


def write_frontier(found: Frontier) -> None:
    """Write ``frontier.json`` and ``frontier.html``, each whole or not at all."""
    write_atomically(found.folder / "frontier.json", json.dumps(found.to_json(), indent=1))
    write_atomically(found.folder / "frontier.html", page(found.points, found.kind))


def page(points: Sequence[Point], kind: str) -> str:
    """The chart and the table as one page."""
    reached = [(point.result, not point.missed) for point in points if point.result]
    models = [(run.pruned, met) for run, met in reached] + [(run.dense, True) for run, _ in reached[:1]]
    drawn = [(x, y, met) for model, met in models if (x := model.of(kind)) is not None and (y := model.metric) is not None]
    good = [(x, y) for x, y, met in drawn if met]
    sign = 1 if all(run.higher_is_better for run, _ in reached) else -1
    best = sorted((x, y) for x, y in good if not any((a, b) != (x, y) and a <= x and sign * b >= sign * y for a, b in good))
    dots = [(x, y) for x, y, _ in drawn]
    unit = f"{kind}, {UNITS[kind]}" if UNITS[kind] else kind
    chart = charts.front(dots, best, unit, _metric(points)) if dots else ""
    title = f"{_metric(points)} against {kind}"
    return render("frontier.html", title=title, how=_how(points), chart=Markup(chart), header=HEADINGS, body=cells(points, kind))


def _metric(points: Sequence[Point]) -> str:
    return next((point.result.metric_name for point in points if point.result and point.result.metric_name), "metric")


def _how(points: Sequence[Point]) -> str:
    return "measured" if any(point.result.measured for point in points if point.result) else NOT_MEASURED
