"""What an allocator may use, and what all of them share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgeprune.budget import format_quantity
from edgeprune.errors import InfeasibleBudgetError
from edgeprune.graph import Analysis
from edgeprune.importance import Saliency, score
from edgeprune.search.plan.planner import Planner
from edgeprune.surgery import Plan, plan_from_saliency
from edgeprune.task import Task

HALVINGS = 24
"""How often a share between 0 and 1 is halved."""


@dataclass
class SearchContext:
    """A task, its analysis, and a planner with the device's (calibrated) times.  ``notes``: what an allocator keeps between calls."""

    task: Task
    analysis: Analysis
    planner: Planner
    notes: dict[str, Any] = field(default_factory=dict)
    _saliency: dict[str, Saliency] = field(default_factory=dict)

    @property
    def choices(self) -> dict[str, list[int]]:
        """The widths every group may take; none of these methods drops blocks, so 0 is not among them."""
        return {name: [width for width in widths if width > 0] for name, widths in self.planner.choices.items()}

    def saliency(self, criterion: str) -> Saliency:
        """The dense model's, computed once."""
        if criterion not in self._saliency:
            self._saliency[criterion] = score(self.task, self.analysis, criterion)
        return self._saliency[criterion]

    def plan(self, criterion: str, widths: Mapping[str, int]) -> Plan:
        """Keep the most salient channels of every group."""
        return plan_from_saliency(self.analysis, self.saliency(criterion), widths)

    def latency_ms(self, widths: Mapping[str, int]) -> float:
        """Predicted."""
        return self.planner.predict(widths).latency_ms

    def require(self, widths: Mapping[str, int], target_ms: float, method: str) -> None:
        """Raise :class:`InfeasibleBudgetError` unless ``widths``, the narrowest ``method`` reaches, are predicted to meet the target."""
        least = self.latency_ms(widths)
        if least > target_ms:
            raise InfeasibleBudgetError(
                f"{method} cannot reach a latency of {format_quantity('latency', target_ms)}: the least is "
                f"{format_quantity('latency', least)}, every group at its narrowest",
                remedy="Relax the budget.",
            )


Allocator = Callable[[SearchContext, float], Plan]
"""``allocate(context, target_ms)``: what to keep so that the predicted latency is at most ``target_ms``."""


def widest(context: SearchContext, widths_at: Callable[[float], dict[str, int]], target_ms: float, method: str) -> dict[str, int]:
    """``widths_at(share)`` at the largest share in 0..1 (by bisection) whose predicted latency is at most ``target_ms``.

    Many groups may change at once there, as widths lie on a grid: from the output on, those go over to the next share's widths for which
    there is time. Raises :class:`InfeasibleBudgetError` when the latency of share 0 is above the target.
    """
    best = widths_at(0.0)
    context.require(best, target_ms, method)
    low, high = 0.0, 1.0
    for share in [1.0] + [0.0] * HALVINGS:
        share = share or (low + high) / 2
        widths = widths_at(share)
        if context.latency_ms(widths) <= target_ms:
            best, low = widths, share
        else:
            high = share
    for name, width in reversed(widths_at(high).items()):
        if context.latency_ms({**best, name: width}) <= target_ms:
            best = {**best, name: width}
    return best


def nearest(choices: list[int], width: float) -> int:
    """The choice nearest to ``width``, the wider of two."""
    return min(choices, key=lambda choice: (abs(choice - width), -choice))
