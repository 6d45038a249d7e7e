"""The fastest model above a floor of the metric."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from edgeprune.budget import format_metric
from edgeprune.errors import InfeasibleBudgetError
from edgeprune.search.events import EventStream
from edgeprune.search.frontier import Sweep, sweep_ended, sweep_folder
from edgeprune.search.request import RunRequest
from edgeprune.search.run import Result

PROBES, NEAR, LOWEST, HIGHEST = 5, 1.08, 0.08, 0.95
"""Runs that look for the fastest model; how near, as a factor, they come to it; the range of latencies, relative to the dense model's,
that they look in."""


def fastest(request: RunRequest, runs: str | Path, resume: str | Path | None, events: EventStream) -> Result:
    """The fastest model whose metric falls by at most the budget's ``max_drop``: a bisection over the latency, each probe a run.

    Raises :class:`InfeasibleBudgetError` when no probe kept the metric.
    """
    task, budget = request.task, request.budget
    folder = sweep_folder(Path(runs), f"{task.name}-fastest", request.fingerprint, resume)
    sweep = Sweep(request, folder, events, "prune")
    low, high, best = LOWEST, HIGHEST, None
    tried: list[str] = []
    while len(tried) < PROBES and high / low >= NEAR:
        level = math.sqrt(low * high)
        text = f"{100 * level:.3g}%"
        try:
            result = sweep.run(f"latency-{text.replace('%', 'pct')}", replace(budget, latency=text))
        except InfeasibleBudgetError as error:
            events.note(f"latency {text}: {error}")
            low = level * max(error.share or NEAR, NEAR)  # the least that can be reached is known now
            continue
        drop = task.drop(result.summary["dense"]["metric"], result.summary["pruned"]["metric"])
        shown = format_metric(drop, result.summary["dense"]["metric"], "+")
        tried.append(f"{shown} at {text}")
        events.note(f"latency {text}: the {task.metric_name} is worse by {shown}; at most {budget.max_drop:g} is allowed")
        if result.met and (best is None or _latency(result) < _latency(best)):
            best = result
        low, high = (low, min(level, _ratio(result))) if result.met else (level, high)
    if best is None:
        sweep_ended(folder, state="budget missed")
        found = ", ".join(tried) or "nothing, since no tested latency can be reached"
        raise InfeasibleBudgetError(
            f"no pruned model keeps the {task.metric_name} within {budget.max_drop:g}: tried {found}",
            remedy=f"Allow a larger drop, or more epochs. The runs are in {folder}.",
        )
    sweep_ended(folder, state="done", best=best.run.name)
    return best


def _latency(result: Result) -> float:
    return float(result.summary["pruned"]["latency_ms"])


def _ratio(result: Result) -> float:
    """Of the latencies, as measured in turns where they were."""
    measured = result.summary["ratio"]
    return float(measured["value"]) if measured else _latency(result) / float(result.summary["dense"]["latency_ms"])
