"""HALP: a knapsack over channels with a latency table.  Shen et al., "Structural Pruning via Latency-Saliency Knapsack", 2022."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgeprune.search.baselines.context import SearchContext
from edgeprune.search.plan.program import saliency_curve
from edgeprune.surgery import Plan

STEPS = 30
"""The latency falls to the target in this many equal steps (section 4: k = 30)."""

UNITS = 20_000
"""Parts the capacity of the knapsack is divided in; costs are rounded up to them."""


def halp(context: SearchContext, target_ms: float) -> Plan:
    """Keep the most first-order Taylor importance under a latency target, by a knapsack over steps of channels.

    In every one of 30 steps a group's cost at a width is looked up with all other widths frozen at their present values (a layer's with
    its input width frozen), channels go in the order of their importance, in blocks of the device's step, and never come back. Importance
    is that of the dense model; the paper estimates it again while it trains on between the steps. Raises :class:`InfeasibleBudgetError`.
    """
    choices, saliency = context.choices, context.saliency("taylor")
    context.require({name: widths[0] for name, widths in choices.items()}, target_ms, "HALP")
    worth = {name: dict(zip(widths, saliency_curve(saliency[name], widths), strict=True)) for name, widths in choices.items()}
    widths = dict(context.planner.dense)
    start, step = context.latency_ms(widths), 0
    while step < STEPS or context.latency_ms(widths) > target_ms:  # more steps only where frozen costs promised too much
        step += 1
        limit = start + (target_ms - start) * min(step / STEPS, 1.0)
        widths = _narrowed(context, choices, worth, widths, limit)
    return context.plan("taylor", widths)


def _narrowed(
    context: SearchContext,
    choices: Mapping[str, Sequence[int]],
    worth: Mapping[str, Mapping[int, float]],
    now: Mapping[str, int],
    limit_ms: float,
) -> dict[str, int]:
    """One step: the widths, none above ``now``, of most worth whose latency by frozen costs is at most ``limit_ms``."""
    names = list(choices)
    allowed = [[width for width in choices[name] if width <= now[name]] for name in names]
    costs = [frozen_costs(context, name, widths, now) for name, widths in zip(names, allowed, strict=True)]
    capacity = limit_ms - context.latency_ms(now) + sum(cost[-1] for cost in costs)  # each group's last cost is that of now
    values = [[worth[name][width] for width in widths] for name, widths in zip(names, allowed, strict=True)]
    chosen = knapsack(values, costs, capacity) if capacity > 0 else [0] * len(names)
    return {name: widths[place] for name, widths, place in zip(names, allowed, chosen, strict=True)}


def frozen_costs(context: SearchContext, group: str, widths: Sequence[int], now: Mapping[str, int]) -> list[float]:
    """Milliseconds above the narrowest of ``widths``, never falling, of the kernels whose output has channels of ``group``.

    Everything else, the input of layers with weights included, keeps its width of ``now``.
    """
    latency = context.planner.latency
    touched = [kernel for kernel in latency.kernels if group in kernel.out_width.groups]
    found = []
    for width in widths:
        changed = {**now, group: width}
        pairs = [
            (kernel.in_width.at(changed if kernel.in_width == kernel.out_width else now), kernel.out_width.at(changed))
            for kernel in touched
        ]
        found.append(sum(latency.kernel_ms(kernel, *pair) for kernel, pair in zip(touched, pairs, strict=True)))
    return [float(value) for value in np.maximum.accumulate(np.array(found)) - found[0]]


def knapsack(values: Sequence[Sequence[float]], costs: Sequence[Sequence[float]], capacity: float) -> list[int]:
    """One place for every item so that the values there sum to the most with costs of at most ``capacity`` (positive).

    ``costs[i][0]`` is 0: the first place is always affordable. Solved exactly, by dynamic programming, for costs rounded up to a
    ``UNITS``-th of the capacity.
    """
    best, picks = np.zeros(UNITS + 1), []
    for value, cost in zip(values, costs, strict=True):
        units = [int(np.ceil(one / capacity * UNITS - 1e-9)) for one in cost]
        options = np.full((len(value), UNITS + 1), -np.inf)
        for place, (worth, used) in enumerate(zip(value, units, strict=True)):
            if used <= UNITS:
                options[place, used:] = best[: UNITS + 1 - used] + worth
        picks.append((options.argmax(0), units))
        best = options.max(0)
    left, chosen = UNITS, []
    for places, units in reversed(picks):
        chosen.append(int(places[left]))
        left -= units[chosen[-1]]
    return chosen[::-1]
