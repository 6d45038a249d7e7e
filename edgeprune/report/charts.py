"""The charts of a report, from its values; each is SVG text, empty where there is nothing to draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgeprune.report.vega import BAD, BEFORE, MAIN, SOFT, TEXT, TRACK, svg
from edgeprune.runs.summary import CandidateSummary, GroupSummary, LayerSummary

MOST_BARS = 24
"""More rows than that are put together: the table beside the chart has them all."""

_BAR = {"step": 20}


def latency_by_layer(layers: Sequence[LayerSummary]) -> str:
    """Two bars for each layer: milliseconds before and after; the slowest before, the rest as one."""
    shown, rest = slowest(layers)
    rows = [(one.name if one.weights[0] else f"{one.name} ({one.kind})", one.latency_ms) for one in shown]
    if rest:
        rows.append((f"{len(rest)} others", (sum(one.latency_ms[0] for one in rest), sum(one.latency_ms[1] for one in rest))))
    unit, factor = ("µs", 1e3) if max((before for _, (before, _) in rows), default=0.0) < 1.0 else ("ms", 1.0)
    values = [
        {"place": f"{place:03d}", "layer": name, "when": when, "time": factor * time}
        for place, (name, times) in enumerate(rows)
        for when, time in zip(("before", "after"), times, strict=True)
    ]
    if not values:
        return ""
    names = {f"{place:03d}": name for place, (name, _) in enumerate(rows)}
    spec: dict[str, Any] = {
        "height": {"step": 11},
        "data": {"values": values},
        "mark": {"type": "bar", "cornerRadiusEnd": 2},
        "encoding": {
            "y": {"field": "place", "type": "nominal", "title": None, "axis": _labels(names)},
            "yOffset": {"field": "when", "sort": ["before", "after"]},
            "x": {"field": "time", "type": "quantitative", "title": f"latency, {unit}"},
            "color": {"field": "when", "type": "nominal", "scale": {"domain": ["before", "after"], "range": [BEFORE, MAIN]}},
        },
    }
    return svg(spec, f"latency of {len(rows)} layers before and after pruning, in {unit}")


def slowest(layers: Sequence[LayerSummary]) -> tuple[list[LayerSummary], list[LayerSummary]]:
    """The layers with a bar of their own, in the model's order, and the others."""
    if len(layers) <= MOST_BARS:
        return list(layers), []
    order = sorted(range(len(layers)), key=lambda place: -layers[place].latency_ms[0])
    kept = set(order[: MOST_BARS - 1])
    return [one for place, one in enumerate(layers) if place in kept], [one for place, one in enumerate(layers) if place not in kept]


def kept_widths(groups: Sequence[GroupSummary]) -> str:
    """Horizontal bars: kept channels, on a track as long as the group has channels in all."""
    if not groups:
        return ""
    names = {f"{place:03d}": group.name for place, group in enumerate(groups)}
    values = [
        {"place": place, "kept": group.kept, "total": group.total, "text": f"{group.kept} / {group.total}"}
        for place, group in zip(names, groups, strict=True)
    ]
    y = {"field": "place", "type": "nominal", "title": None, "axis": _labels(names)}
    scale = {"domain": [0, 1.15 * max(group.total for group in groups)], "nice": False}

    def bar(field: str, color: str) -> dict[str, Any]:
        x = {"field": field, "type": "quantitative", "title": "channels", "scale": scale}
        return {"mark": {"type": "bar", "color": color, "cornerRadiusEnd": 2, "height": 12}, "encoding": {"x": x}}

    text = {"mark": {"type": "text", "align": "left", "dx": 5}, "encoding": {"x": {"field": "total", "type": "quantitative"}}}
    text["encoding"]["text"] = {"field": "text"}  # type: ignore[index]
    layers = [bar("total", TRACK), bar("kept", MAIN), text]
    spec = {"height": _BAR, "data": {"values": values}, "encoding": {"y": y}, "layer": layers}
    return svg(spec, f"kept channels of {len(groups)} groups")


def candidates(found: Sequence[CandidateSummary], limit_ms: float | None, final: tuple[float, float, float] | None) -> str:
    """Predicted (ring) and measured (dot with its interval) latency of each plan, and the limit as a line.  ``final``: latency and interval
    of the model that was kept, shown after them."""
    marks: list[dict[str, Any]] = []
    for number, one in enumerate(found, 1):
        plan = f"plan {number}"
        marks += [{"plan": plan, "kind": "predicted", "ms": one.predicted_ms}] if one.predicted_ms is not None else []
        if one.measured_ms is not None:
            marks.append({"plan": plan, "kind": "measured", "ms": one.measured_ms, "low": one.low_ms, "high": one.high_ms})
    if not marks:
        return ""
    if final is not None:
        marks.append({"plan": "kept, tuned", "kind": "kept", "ms": final[0], "low": final[1], "high": final[2]})
    kinds = ["predicted", "measured", *(["kept"] if final else [])]
    color = {"field": "kind", "type": "nominal", "scale": {"domain": kinds, "range": [SOFT, MAIN, TEXT][: len(kinds)]}}
    shape = {"field": "kind", "type": "nominal", "scale": {"domain": kinds, "range": ["circle", "circle", "diamond"][: len(kinds)]}}
    scale = {"domain": _span(marks, limit_ms), "nice": False, "zero": False}
    y = {"field": "ms", "type": "quantitative", "title": "latency, ms", "scale": scale}
    x = {"field": "plan", "type": "nominal", "title": None, "sort": None, "axis": {"labelAngle": 0}}
    only = [{"filter": "isValid(datum.low) && isValid(datum.high)"}]
    intervals = {"x": x, "y": {"field": "low", "type": "quantitative", "scale": scale}, "y2": {"field": "high"}, "color": color}
    layers: list[dict[str, Any]] = [
        {"transform": only, "mark": {"type": "rule", "strokeWidth": 2}, "encoding": intervals},
        _points("datum.kind == 'predicted'", {"filled": False, "size": 150, "strokeWidth": 1.5}, x, y, color, shape),
        _points("datum.kind != 'predicted'", {"filled": True, "size": 60, "opacity": 1}, x, y, color, shape),
    ]
    if limit_ms is not None:
        layers += _line(limit_ms, "budget", BAD)
    spec = {"height": 220, "data": {"values": marks}, "layer": layers}
    return svg(spec, f"predicted and measured latency of {len(found)} plans in milliseconds, and the budget")


def _span(marks: Sequence[Mapping[str, Any]], limit: float | None) -> list[float]:
    """What an axis shows: all values, their intervals and the limit, with some room."""
    values = [mark[name] for mark in marks for name in ("ms", "low", "high") if mark.get(name) is not None]
    values += [limit] if limit is not None else []
    room = (max(values) - min(values)) * 0.15 or max(values) * 0.05
    return [max(0.0, min(values) - room), max(values) + room]


def _points(only: str, style: Mapping[str, Any], x: Any, y: Any, color: Any, shape: Any) -> dict[str, Any]:
    encoding = {"x": x, "y": y, "color": color, "shape": shape}
    return {"transform": [{"filter": only}], "mark": {"type": "point", **style}, "encoding": encoding}


def _line(value: float, name: str, color: str, align: str = "right") -> list[dict[str, Any]]:
    """A dashed line across the chart with its name at one end."""
    at = {"y": {"datum": value}}
    x = {"value": "width" if align == "right" else 0}
    return [
        {"data": {"values": [{}]}, "mark": {"type": "rule", "color": color, "strokeDash": [5, 4]}, "encoding": at},
        {
            "data": {"values": [{}]},
            "mark": {"type": "text", "align": align, "baseline": "bottom", "dy": -3, "color": color, "text": name},
            "encoding": at | {"x": x},
        },
    ]


def samples(percentiles: Mapping[str, Sequence[float]]) -> str:
    """For each model the share of its runs that took at most so many milliseconds; ``percentiles``: its 0th to 100th.  The axis ends at
    twice the largest median, or at the slowest run."""
    if not percentiles:
        return ""
    end = min(max(ordered[-1] for ordered in percentiles.values()), 2 * max(ordered[len(ordered) // 2] for ordered in percentiles.values()))
    values = [
        {"model": name, "ms": value, "share": percent}
        for name, ordered in percentiles.items()
        for percent, value in enumerate(ordered)
        if value <= end
    ]
    names = list(percentiles)
    color = {"field": "model", "type": "nominal", "scale": {"domain": names, "range": [BEFORE, MAIN][-len(names) :]}}
    spec = {
        "height": 200,
        "data": {"values": values},
        "mark": {"type": "line", "strokeWidth": 2, "interpolate": "step-after"},
        "encoding": {
            "x": {"field": "ms", "type": "quantitative", "title": "latency, ms", "scale": {"domain": [0, end], "nice": False}},
            "y": {"field": "share", "type": "quantitative", "title": "share of runs, %", "scale": {"domain": [0, 100]}},
            "color": color,
            "order": {"field": "share"},
        },
    }
    return svg(spec, f"distribution of the latency samples of {' and '.join(names)}")


def curve(points: Sequence[tuple[float, float]], horizontal: str, vertical: str, lines: Mapping[str, float] | None = None) -> str:
    """A line through ``points``, which are marked; ``lines``: values to compare with, by name."""
    lines = lines or {}
    ys = [y for _, y in points] + list(lines.values())
    margin = (max(ys) - min(ys)) * 0.12 or abs(ys[0]) * 0.05 or 1.0
    scale = {"domain": [min(ys) - margin, max(ys) + margin], "nice": False, "zero": False}
    last = max(x for x, _ in points)
    whole = {"values": list(range(int(last) + 1))} if last <= 12 and all(x == int(x) for x, _ in points) else {}
    axis = {"format": "d", "tickMinStep": 1, **whole}
    encoding = {
        "x": {"field": "x", "type": "quantitative", "title": horizontal, "axis": axis, "scale": {"nice": False}},
        "y": {"field": "y", "type": "quantitative", "title": vertical, "scale": scale},
    }
    marked = {"type": "line", "color": MAIN, "strokeWidth": 2, "point": {"filled": True, "color": MAIN, "size": 45}}
    layers: list[dict[str, Any]] = [{"mark": marked, "encoding": encoding}]
    for name, value in lines.items():
        layers += _line(value, name, BAD if name == "floor" else SOFT, "left" if name == "dense" else "right")
    data = {"values": [{"x": x, "y": y} for x, y in points]}
    return svg({"height": 200, "data": data, "layer": layers}, f"{vertical} by {horizontal}")


def front(points: Sequence[tuple[float, float]], best: Sequence[tuple[float, float]], horizontal: str, vertical: str) -> str:
    """``points`` as rings, those of the front as dots on a line."""
    ys = [y for _, y in points]
    margin = (max(ys) - min(ys)) * 0.1 or abs(ys[0]) * 0.05 or 1.0
    scale = {"domain": [min(ys) - margin, max(ys) + margin], "nice": False, "zero": False}
    values = [{"x": x, "y": y, "best": (x, y) in best} for x, y in points]
    encoding = {
        "x": {"field": "x", "type": "quantitative", "title": horizontal, "scale": {"zero": True}},
        "y": {"field": "y", "type": "quantitative", "title": vertical, "scale": scale},
    }
    on, off = [{"filter": "datum.best"}], [{"filter": "!datum.best"}]
    layers = [
        {"transform": on, "mark": {"type": "line", "color": MAIN, "strokeWidth": 2}, "encoding": encoding},
        {"transform": on, "mark": {"type": "point", "filled": True, "color": MAIN, "size": 60, "opacity": 1}, "encoding": encoding},
        {"transform": off, "mark": {"type": "point", "color": SOFT, "size": 90}, "encoding": encoding},
    ]
    return svg({"height": 240, "data": {"values": values}, "layer": layers}, f"{vertical} by {horizontal}")


def _labels(names: Mapping[str, str]) -> dict[str, Any]:
    """An axis that shows names for places: several rows may have one name, and keep their order.  Of a long name its end is shown."""
    shown = {place: name if len(name) <= 26 else f"…{name[-25:]}" for place, name in names.items()}
    pairs = ", ".join(f"'{place}': {_quoted(name)}" for place, name in shown.items())
    return {"labelExpr": f"({{{pairs}}})[datum.value]", "ticks": False, "domain": False}


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", " ")
    return f"'{escaped}'"
