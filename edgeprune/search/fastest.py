"""The fastest model above a floor of the metric."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from edgeprune.budget import Budget, format_metric
from edgeprune.errors import InfeasibleBudgetError
from edgeprune.search.events import Listener
from edgeprune.search.fingerprint import inputs_of
from edgeprune.search.frontier import Sweep, sweep_ended, sweep_folder
from edgeprune.search.options import Options
from edgeprune.search.run import Result
from edgeprune.task import Task

PROBES, NEAR, LOWEST, HIGHEST = 5, 1.08, 0.08, 0.95
"""Runs that look for the fastest model; how near, as a factor, they come to it; the range of latencies, relative to the dense model's,
that they look in."""


def fastest(
    task: Task,
    target: str | None,
    profile: str | None,
    budget: Budget,
    options: Options,
    runs: str | Path,
    resume: str | Path | None,
    listener: Listener,
    recipe: str | None,
) -> Result:
    """The fastest model whose metric falls by at most ``budget.max_drop``: a bisection over the latency, each probe a run.

    Raises :class:`InfeasibleBudgetError` when no probe kept the metric.
    """
    inputs = inputs_of(task, target, profile, budget, options, recipe)
    folder = sweep_folder(Path(runs), f"{task.name}-fastest", inputs, resume)
    sweep = Sweep(task, target, profile, options, folder, listener, recipe, "prune")
    low, high, best = LOWEST, HIGHEST, None
    tried: list[str] = []
    while len(tried) < PROBES and high / low >= NEAR:
        level = math.sqrt(low * high)
        text = f"{100 * level:.3g}%"
        try:
            result = sweep.run(f"latency-{text.replace('%', 'pct')}", replace(budget, latency=text))
        except InfeasibleBudgetError as error:
            listener.note(f"latency {text}: {error}")
            low = level * max(error.share or NEAR, NEAR)  # the least that can be reached is known now
            continue
        drop = task.drop(result.summary["dense"]["metric"], result.summary["pruned"]["metric"])
        shown = format_metric(drop, result.summary["dense"]["metric"], "+")
        tried.append(f"{shown} at {text}")
        listener.note(f"latency {text}: the {task.metric_name} is worse by {shown}, at most {budget.max_drop:g} is allowed")
        if result.met and (best is None or _latency(result) < _latency(best)):
            best = result
        low, high = (low, min(level, _ratio(result))) if result.met else (level, high)
    if best is None:
        sweep_ended(folder, state="budget missed")
        found = ", ".join(tried) or "none that can be reached"
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
