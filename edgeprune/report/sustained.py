"""The page of a sustained load: latency, temperature and clock over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from edgeprune.bench.sustained import MINUTE_S, State, Sustained
from edgeprune.files import write_atomically
from edgeprune.report import charts
from edgeprune.report.templates import render
from edgeprune.report.vega import svg

HEADINGS = ("model", "first part", "last part", "change", "")


def write_sustained(found: Sustained, path: Path) -> None:
    """Write the page to ``path``, whole or not at all.  Raises :class:`OSError`."""
    write_atomically(path, page(found))


def page(found: Sustained) -> str:
    """The page as HTML, with nothing outside of it."""
    body = []
    for curve in found.curves:
        first, last = found.first_ms(curve), found.last_ms(curve)
        body.append([curve.name, f"{first:.4g} ms", f"{last:.4g} ms", f"{last / first - 1:+.1%}", found.change(curve)])
    first_names, last_names = (" < ".join(found.ranking(part)) for part in ("first", "last"))
    lines = [f"The first and the last {found.window_s:.0f} s are compared."]
    if len(found.curves) > 1:
        lines.append(f"Ranking: {first_names}" + (", the same at last." if first_names == last_names else f"; at last {last_names}."))
    lines.append(f"Throttled: {'; '.join(found.throttled)}." if found.throttled else "Nothing was seen to throttle the device.")
    return render(
        "sustained.html",
        title=f"{found.duration_s / MINUTE_S:.3g} minutes under load",
        device=f"{found.target}, {found.identity}, threads: {found.threads}",
        latency=Markup(_latency(found)),
        temperature=Markup(_readings(found.states, "temperature, C")),
        clock=Markup(_readings(found.states, "clock, MHz")),
        header=HEADINGS,
        body=body,
        lines=lines,
    )


def _latency(found: Sustained) -> str:
    """Every model's latency as a share of its first minute's, from zero, so that a flat line is flat."""
    values = [
        {"minutes": point.time_s / MINUTE_S, "share": 1e-4 * point.median_ns / found.first_ms(curve), "model": curve.name}
        for curve in found.curves
        for point in curve.points
    ]
    highest = max(1.1 * 100, *(1.05 * value["share"] for value in values if isinstance(value["share"], float)))
    encoding: dict[str, Any] = {
        "x": {"field": "minutes", "type": "quantitative", "title": "minutes"},
        "y": {
            "field": "share",
            "type": "quantitative",
            "title": "latency, % of the first part's",
            "scale": {"domain": [0, highest], "nice": False},
        },
        "color": {"field": "model", "type": "nominal"},
    }
    spec = {"height": 240, "data": {"values": values}, "mark": {"type": "line", "strokeWidth": 2}, "encoding": encoding}
    return svg(spec, f"latency of {', '.join(curve.name for curve in found.curves)} over {found.duration_s:.0f} s")


def _readings(states: Sequence[State], what: str) -> str:
    """A reading of the device over time; empty where it tells none."""
    read = [(state.time_s / MINUTE_S, state.hottest_c if what.startswith("temperature") else state.clock_mhz) for state in states]
    points = [(minutes, value) for minutes, value in read if value is not None]
    return charts.curve(points, "minutes", what) if points else ""
