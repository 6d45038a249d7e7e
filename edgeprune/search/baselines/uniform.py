"""The same share of every group."""

from __future__ import annotations

from edgeprune.search.baselines.context import SearchContext, nearest, widest
from edgeprune.surgery import Plan


def uniform(context: SearchContext, target_ms: float) -> Plan:
    """One keep-ratio for all groups, as large as the predicted latency allows (what is left of it widens the last groups
    by a step of the grid); within a group the channels of largest L2 norm stay.

    A width multiplier, as of Howard et al., "MobileNets", 2017, section 3.3. Raises :class:`InfeasibleBudgetError`.
    """
    sizes, choices = context.planner.dense, context.choices

    def widths_at(share: float) -> dict[str, int]:
        return {name: nearest(choices[name], share * size) for name, size in sizes.items()}

    return context.plan("l2", widest(context, widths_at, target_ms, "a uniform width"))
