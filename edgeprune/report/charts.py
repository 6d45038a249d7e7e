"""Charts as inline SVG; colours come from the page's CSS classes, so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from edgeprune.runs.summary import CandidateSummary, GroupSummary

WIDTH = 640
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 12, 34


def kept_widths(groups: Sequence[GroupSummary]) -> str:
    """Horizontal bars: kept channels, on a track as long as the group has channels in all."""
    widest = max(group.total for group in groups)
    names, span = 210, WIDTH - 210 - 90
    parts = []
    for index, group in enumerate(groups):
        y = index * 20
        total, kept = span * group.total / widest, span * group.kept / widest
        name, share = group.name, f"{group.kept} / {group.total}"
        short = name if len(name) <= 30 else f"…{name[-29:]}"
        parts.append(
            f"<g><title>{escape(name)}: {group.kept} of {group.total} channels kept</title>"
            f"{_text('name', names - 8, y + 13, short, 'end')}"
            f'<rect class="track" x="{names}" y="{y + 3}" width="{total:.1f}" height="13" rx="2"/>'
            f'<rect class="bar" x="{names}" y="{y + 3}" width="{kept:.1f}" height="13" rx="2"/>'
            f"{_text('number', names + total + 6, y + 13, share, 'start')}</g>"
        )
    return _svg("".join(parts), len(groups) * 20 + 4, "kept channels by group")


def candidates(found: Sequence[CandidateSummary], limit_ms: float | None) -> str:
    """Predicted (ring) and measured (dot with its interval) latency of each candidate, and the limit as a line."""
    values = [value for one in found for value in (one.predicted_ms, one.measured_ms, one.high_ms) if value is not None]
    values += [limit_ms] if limit_ms is not None else []
    if not values:
        return ""
    scale = _Scale(0, len(found) + 1, 0, max(values) * 1.05)
    parts = [scale.axes("candidate", "latency, ms", [(number, str(number)) for number in range(1, len(found) + 1)])]
    if limit_ms is not None:
        y = scale.y(limit_ms)
        parts.append(f'<line class="limit" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text("limit-name", WIDTH - RIGHT, y - 5, "budget", "end"))
    for number, one in enumerate(found, 1):
        x = scale.x(number)
        if one.low_ms is not None and one.high_ms is not None:
            low, high = scale.y(one.low_ms), scale.y(one.high_ms)
            parts.append(f'<line class="interval" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>')
        for name, value, style, radius in (("measured", one.measured_ms, "dot", 4.0), ("predicted", one.predicted_ms, "ring", 6.5)):
            if value is not None:
                parts.append(_point(style, x, scale.y(value), radius, f"candidate {number}: {name} {value:.4g} ms"))
    return _svg("".join(parts), scale.height, "predicted and measured latency of the candidates")


def curve(points: Sequence[tuple[float, float]], horizontal: str, vertical: str) -> str:
    """A line through ``points``, which are marked."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    margin = (max(ys) - min(ys)) * 0.08 or abs(ys[0]) * 0.05 or 1.0
    scale = _Scale(min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1, min(ys) - margin, max(ys) + margin)
    step = max(1, math.ceil(len(points) / 12))
    parts = [scale.axes(horizontal, vertical, [(x, f"{x:g}") for x in xs[::step]])]
    path = " ".join(f"{scale.x(x):.1f},{scale.y(y):.1f}" for x, y in points)
    parts.append(f'<polyline class="line" points="{path}"/>')
    for x, y in points:
        parts.append(_point("dot", scale.x(x), scale.y(y), 3.5, f"{horizontal} {x:g}: {y:.4g}"))
    return _svg("".join(parts), scale.height, f"{vertical} by {horizontal}")


def front(points: Sequence[tuple[float, float]], best: Sequence[tuple[float, float]], show: Callable[[float], str], *names: str) -> str:
    """``points`` as rings, those of the front as dots on a line; ``show`` writes a horizontal value; ``names`` of both axes."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    margin = (max(ys) - min(ys)) * 0.08 or abs(ys[0]) * 0.05 or 1.0
    scale = _Scale(0.0, max(xs) * 1.05 or 1.0, min(ys) - margin, max(ys) + margin)
    horizontal, vertical = names
    parts = [scale.axes(horizontal, vertical, [(x, show(x)) for x in (max(xs) * part / 4 for part in range(1, 5))])]
    path = " ".join(f"{scale.x(x):.1f},{scale.y(y):.1f}" for x, y in best)
    parts.append(f'<polyline class="line" points="{path}"/>')
    for x, y in points:
        style, radius = ("dot", 4.0) if (x, y) in best else ("ring", 5.0)
        parts.append(_point(style, scale.x(x), scale.y(y), radius, f"{horizontal} {show(x)}: {vertical} {y:.4g}"))
    return _svg("".join(parts), scale.height, f"{vertical} by {horizontal}")


class _Scale:
    """From values to the pixels of a chart of fixed size."""

    height = 240

    def __init__(self, x_low: float, x_high: float, y_low: float, y_high: float) -> None:
        self.x_low, self.x_high, self.y_low, self.y_high = x_low, x_high, y_low, y_high

    def x(self, value: float) -> float:
        return LEFT + (value - self.x_low) / (self.x_high - self.x_low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return self.height - BOTTOM - (value - self.y_low) / (self.y_high - self.y_low) * (self.height - TOP - BOTTOM)

    def axes(self, horizontal: str, vertical: str, marks: Sequence[tuple[float, str]]) -> str:
        """Grid lines at round values, their numbers, the marks below and the names of both axes."""
        parts = []
        for value in _round_values(self.y_low, self.y_high):
            y = self.y(value)
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(_text("number", LEFT - 6, y + 4, f"{value:.6g}", "end"))
        for at, text in marks:
            parts.append(_text("number", self.x(at), self.height - BOTTOM + 15, text, "middle"))
        parts.append(_text("axis", (LEFT + WIDTH - RIGHT) / 2, self.height - 3, horizontal, "middle"))
        middle = (TOP + self.height - BOTTOM) / 2
        parts.append(f'<text class="axis" transform="translate(11 {middle}) rotate(-90)" text-anchor="middle">{escape(vertical)}</text>')
        return "".join(parts)


def _round_values(low: float, high: float) -> list[float]:
    """About five multiples of 1, 2 or 5 times a power of ten between ``low`` and ``high``."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    return [step * number for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _text(style: str, x: float, y: float, text: str, anchor: str) -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _point(style: str, x: float, y: float, radius: float, title: str) -> str:
    return f'<circle class="{style}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"><title>{escape(title)}</title></circle>'


def _svg(content: str, height: int, name: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(name)}">{content}</svg>'
