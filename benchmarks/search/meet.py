"""Bringing a method to a budget: its one knob is turned until the *measured* latency is at the budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from benchmarks.search.cases import FULL
from edgeprune.errors import InfeasibleBudgetError

AIM = 0.98
"""The share of the budget aimed at: the middle of what counts as full."""

MOST, BUILDS = 5, 6
"""Measurements for one budget, and models built to find one that was not measured yet."""

STRIDE = 0.3
"""How far to go on towards the bracket's other end where a model was measured already."""

LEAN = 0.6
"""Where one end of the bracket stays, the distance to it shrinks by this each time (the idea of the Illinois method of false position)."""


@dataclass
class Built:
    """A model that a method proposes.  ``x``: where on the method's own scale (0..1) it lies: its share of the dense model's predicted
    latency, or of its MACs. ``key``: equal for equally fast models. ``save``: keeps it in a folder."""

    model: nn.Module
    key: str
    x: float
    save: Callable[[Path], None]
    widths: dict[str, int] | None = None


@dataclass(frozen=True)
class Timed:
    """``ratio`` to the dense model's latency with its interval, and the latency itself (ms)."""

    ratio: float
    low: float
    high: float
    latency_ms: float


@dataclass
class Found:
    """What is nearest below the budget, and all that was measured on the way."""

    built: Built
    timed: Timed
    tried: list[tuple[Built, Timed]] = field(default_factory=list)


def meet(
    build: Callable[[float], Built], measure: Callable[[Built], Timed], budget: float, known: Iterable[tuple[float, float]] = ()
) -> Found:
    """Turn ``build``'s knob (0..1) until the measured ratio is between ``FULL`` of the budget and all of it, in at most ``MOST``
    measurements; else the nearest below it.

    ``known``: (x, ratio) pairs that were measured before. Raises :class:`InfeasibleBudgetError` when nothing is below the budget.
    """
    points = [(0.0, 0.0), (1.0, 1.0), *known]
    tried: list[tuple[Built, Timed]] = []
    for _ in range(MOST):
        built = _untried(build, points, budget, [(one.key, timed.ratio > budget) for one, timed in tried])
        if built is None:
            break
        timed = measure(built)
        tried.append((built, timed))
        points.append((built.x, timed.ratio))
        if FULL * budget <= timed.ratio <= budget:
            break
    met = [one for one in tried if one[1].ratio <= budget]
    if not met:
        least = min((timed.ratio for _, timed in tried), default=None)
        reached = "it built nothing" if least is None else f"its fastest model takes {100 * least:.1f} %"
        raise InfeasibleBudgetError(f"{100 * budget:g} % of the dense latency was not reached: {reached}")
    return Found(*max(met, key=lambda one: one[1].ratio), tried)


def _untried(
    build: Callable[[float], Built], points: list[tuple[float, float]], budget: float, tried: list[tuple[str, bool]]
) -> Built | None:
    """A model between the nearest measured ones below and above the budget, where the line through them crosses what is aimed at; further
    towards the other end the more measurements in a row lay on the same side (``tried``: key, and whether above).
    """
    below = max((point for point in points if point[1] <= budget), key=lambda point: point[1])
    above = min((point for point in points if point[1] > budget and point[0] > below[0]), default=(1.0, 1.0))
    share = min(max((AIM * budget - below[1]) / max(above[1] - below[1], 1e-9), 0.02), 0.98)
    sides = [over for _, over in tried]
    stuck = next((number for number, over in enumerate(reversed(sides)) if over != sides[-1]), len(sides)) - 1
    if stuck > 0:
        share = share * LEAN**stuck if sides[-1] else 1.0 - (1.0 - share) * LEAN**stuck
    low, high = below[0], above[0]
    x = low + share * (high - low)
    for _ in range(BUILDS):
        try:
            built = build(x)
        except InfeasibleBudgetError:
            built = None
        if built is not None and built.key not in dict(tried):
            return built
        if built is None or not dict(tried)[built.key]:
            low, x = x, x + STRIDE * (high - x)
        else:
            high, x = x, x - STRIDE * (x - low)
    return None
