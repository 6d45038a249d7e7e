"""Vega-Lite charts as SVG text, drawn on this machine: the page needs no script.

Colours are the page's CSS variables, so that a chart follows light and dark. Reference: https://vega.github.io/vega-lite/docs/
"""

from __future__ import annotations

import re
from functools import cache
from html import escape
from typing import Any

from edgeprune.decode import JsonObject

SCHEMA = "https://vega.github.io/schema/vega-lite/v5.json"
WIDTH = 420
"""Of a whole chart in pixels: its letters can be read on a phone, where it shrinks a little."""

_NAMES = ("text", "soft", "line", "track", "main", "before", "bad")
TEXT, SOFT, LINE, TRACK, MAIN, BEFORE, BAD = (f"var(--{name})" for name in _NAMES)
"""The colours of :file:`pages/style.css`."""

_NOT_NEEDED = re.compile(
    r'<defs>.*?</defs>| clip-path="[^"]*"'  # whose names are the same in every chart; no mark is outside its plot
    r'|<path class="(?:back|fore)ground"(?=[^>]* d="(?:M0,0h0v0h0Z)?")[^>]*/>'
    r'| (?:xmlns(?::xlink)?|version|class|role|aria-[a-z]+|pointer-events)="[^"]*"| (?:opacity|stroke-width)="1"'
)
"""What Vega writes for scripts and for readers of single marks: the chart as a whole has a name, and a table beside it."""

_CONFIG: JsonObject = {
    "aria": False,
    "font": "sans-serif",
    "view": {"stroke": None},
    "axis": {
        **{"labelColor": SOFT, "titleColor": TEXT, "gridColor": LINE, "domainColor": LINE, "tickColor": LINE},
        **{"labelFontSize": 11, "titleFontSize": 12, "titleFontWeight": "normal", "labelLimit": 175},
    },
    "legend": {"labelColor": TEXT, "titleColor": TEXT, "labelFontSize": 11, "orient": "top", "title": None, "symbolStrokeWidth": 2},
    "text": {"color": TEXT, "fontSize": 11},
}


@cache
def available() -> bool:
    """Whether the library that draws charts can be imported: it has no wheel for some machines."""
    try:
        import vl_convert  # noqa: F401
    except ImportError:
        return False
    return True


def svg(spec: JsonObject, description: str) -> str:
    """The chart that ``spec`` (Vega-Lite without ``$schema`` and ``config``) describes, for the body of a page; ``description``: what
    readers hear who do not see it.  Empty where charts cannot be drawn."""
    if not available():
        return ""
    import vl_convert

    size = {"autosize": {"type": "fit-x", "contains": "padding"}, "width": WIDTH, "padding": {"left": 2, "right": 6, "top": 4, "bottom": 4}}
    whole: dict[str, Any] = {"$schema": SCHEMA, "background": None, "config": _CONFIG, **size, **spec}
    drawn: str = vl_convert.vegalite_to_svg(whole)
    inner = _NOT_NEEDED.sub("", drawn)
    name = escape(description)
    return re.sub(r'<svg width="[^"]*" height="[^"]*"', f'<svg class="chart" role="img" aria-label="{name}"', inner, count=1)
