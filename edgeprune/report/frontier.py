"""A sweep over one limit as a table and a chart: accuracy against the limited figure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from rich.table import Table

from edgeprune.budget import FIGURES, format_metric, format_quantity
from edgeprune.files import write_atomically
from edgeprune.report import charts
from edgeprune.report.html import STYLE
from edgeprune.report.summary import DASH, NOT_MEASURED

Points = Sequence[Mapping[str, Any]]
"""By point: ``level``, ``best``, ``missed`` (kinds of limits), ``error``, ``dense`` and ``pruned`` (None where the level was out of reach),
``metric_name``, ``higher_is_better``, ``measured``."""

HEADINGS = ("limit", "kept", "metric", "latency", "memory", "energy", "size", "MACs", "parameters", "front")


def cells(points: Points, kind: str) -> list[list[str]]:
    """A row of text for the dense model and each point."""
    known = next((point for point in points if point.get("pruned")), None)
    rows = [["dense", "100 %", *_figures(known["dense"]), DASH]] if known else []
    for point in points:
        if not point.get("pruned"):
            rows.append([str(point["level"]), *[DASH] * 8, "out of reach"])
            continue
        dense, pruned = point["dense"][FIGURES[kind]], point["pruned"][FIGURES[kind]]
        share = f"{100 * pruned / dense:.1f} %" if dense else DASH
        said = f"misses {', '.join(point['missed'])}" if point.get("missed") else "yes" if point["best"] else "no"
        rows.append([str(point["level"]), share, *_figures(point["pruned"]), said])
    return rows


def _figures(model: Mapping[str, Any]) -> list[str]:
    values = [DASH if model["metric"] is None else format_metric(model["metric"])]
    return values + [DASH if model[name] is None else format_quantity(kind, model[name]) for kind, name in FIGURES.items()]


def console_frontier(points: Points, kind: str) -> Table:
    """The table for a terminal."""
    table = Table(*HEADINGS, title=f"{_metric(points)} at limits of {kind} ({_how(points)})")
    for row in cells(points, kind):
        table.add_row(*row)
    return table


def write_frontier(folder: Path, kind: str, points: Points) -> None:
    """Write ``frontier.json`` and ``frontier.html``, each whole or not at all."""
    write_atomically(folder / "frontier.json", json.dumps({"kind": kind, "points": points}, indent=1))
    write_atomically(folder / "frontier.html", page(points, kind))


def page(points: Points, kind: str) -> str:
    """The chart and the table as one page."""
    reached = [point for point in points if point.get("pruned")]
    models = [(point["pruned"], not point.get("missed")) for point in reached] + [(point["dense"], True) for point in reached[:1]]
    drawn = [(model[FIGURES[kind]], model["metric"]) for model, _ in models if model["metric"] is not None]
    good = [(model[FIGURES[kind]], model["metric"]) for model, met in models if met and model["metric"] is not None]
    sign = 1 if all(point.get("higher_is_better", True) for point in reached) else -1
    best = sorted((x, y) for x, y in good if not any((a, b) != (x, y) and a <= x and sign * b >= sign * y for a, b in good))
    chart = charts.front(drawn, best, lambda value: format_quantity(kind, value), kind, _metric(points)) if drawn else ""
    head = "".join(f"<th>{escape(name)}</th>" for name in HEADINGS)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in cells(points, kind))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Frontier</title><style>{STYLE}</style></head><body>'
        f'<h1>{escape(_metric(points))} against {escape(kind)} <span class="badge">{_how(points)}</span></h1>{chart}'
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></body></html>\n'
    )


def _metric(points: Points) -> str:
    return next((str(point["metric_name"]) for point in points if point.get("metric_name")), "metric")


def _how(points: Points) -> str:
    return "measured" if any(point.get("measured") for point in points) else NOT_MEASURED
