"""Predicted against measured latency as an SVG that stands by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

SIDE, MARGIN = 460, 52
COLOURS = ("#0b6fa4", "#c2571a", "#2e7d32", "#7b3fa0", "#8a6d00")

Point = tuple[float, float, bool]
"""Predicted and measured latency as shares of the dense model's; whether pruned models had been measured before."""


def scatter(series: Mapping[str, Sequence[Point]]) -> str:
    """Points by model, on equal axes, with the diagonal; a ring is a prediction made when the dense model alone had been measured."""
    top = max((max(x, y) for points in series.values() for x, y, _ in points), default=1.0) * 1.05
    parts = [_frame(top)]
    for number, (name, points) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        for x, y, calibrated in points:
            fill = colour if calibrated else "none"
            parts.append(
                f'<circle cx="{_x(x, top):.1f}" cy="{_y(y, top):.1f}" r="3.5" fill="{fill}" fill-opacity="0.75" stroke="{colour}">'
                f"<title>{escape(name)}: predicted {100 * x:.1f} %, measured {100 * y:.1f} %</title></circle>"
            )
        y = MARGIN + 8 + 17 * number
        parts.append(f'<circle cx="{MARGIN + 12}" cy="{y}" r="4" fill="{colour}"/>{_text(MARGIN + 22, y + 4, name, "start")}')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIDE} {SIDE}" role="img" font-family="sans-serif" font-size="12">'
    return f'{head}<rect width="{SIDE}" height="{SIDE}" fill="#ffffff"/>{"".join(parts)}</svg>\n'


def _frame(top: float) -> str:
    low, high = _x(0, top), _x(top, top)
    parts = [f'<line x1="{low}" y1="{_y(0, top)}" x2="{high}" y2="{_y(top, top)}" stroke="#888888" stroke-dasharray="4 4"/>']
    for tenth in range(0, int(top * 10) + 1, 2):
        x, y = _x(tenth / 10, top), _y(tenth / 10, top)
        parts.append(f'<path d="M{low} {y:.1f}H{high}M{x:.1f} {_y(0, top)}V{_y(top, top)}" stroke="#e4e4e4" fill="none"/>')
        parts.append(_text(x, SIDE - MARGIN + 18, f"{10 * tenth} %", "middle") + _text(low - 6, y + 4, f"{10 * tenth} %", "end"))
    parts.append(_text(SIDE / 2, SIDE - 12, "predicted latency, of the dense model's", "middle"))
    parts.append(
        f'<text transform="translate(14 {SIDE / 2}) rotate(-90)" text-anchor="middle" fill="#333333">'
        "measured latency, of the dense model's</text>"
    )
    return "".join(parts)


def _x(value: float, top: float) -> float:
    return MARGIN + value / top * (SIDE - 2 * MARGIN)


def _y(value: float, top: float) -> float:
    return SIDE - MARGIN - value / top * (SIDE - 2 * MARGIN)


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#333333">{escape(text)}</text>'
