"""The fastest model above a floor of the metric."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from edgeprune.budget import format_metric
from edgeprune.errors import InfeasibleBudgetError
from edgeprune.runs.document import update_document
from edgeprune.runs.summary import ModelSummary, RunSummary
from edgeprune.search.events import EventStream
from edgeprune.search.frontier import Sweep, sweep_folder
from edgeprune.search.request import RunRequest
from edgeprune.search.run import Result
from edgeprune.search.work import Steps, Workers

PROBES, NEAR, LOWEST, HIGHEST = 5, 1.08, 0.08, 0.95
"""Runs that look for the fastest model; how near, as a factor, they come to it; the range of latencies, relative to the dense model's,
that they look in."""


def fastest(request: RunRequest, runs: str | Path, resume: str | Path | None, events: EventStream, workers: Workers) -> Steps[Result]:
    """The fastest model whose metric falls by at most the budget's ``max_drop``: a bisection over the latency, each probe a run.

    Raises :class:`InfeasibleBudgetError` when no probe kept the metric.
    """
    task, budget = request.task, request.budget
    folder = sweep_folder(Path(runs), f"{task.name}-fastest", request.fingerprint, resume)
    sweep = Sweep(request, folder, events, "prune", workers)
    low, high, best = LOWEST, HIGHEST, None
    tried: list[str] = []
    while len(tried) < PROBES and high / low >= NEAR:
        level = math.sqrt(low * high)
        text = f"{100 * level:.3g}%"
        try:
            result = yield from sweep.run(f"latency-{text.replace('%', 'pct')}", replace(budget, latency=text))
        except InfeasibleBudgetError as error:
            events.note(f"latency {text}: {error}")
            low = level * max(error.share or NEAR, NEAR)  # the least that can be reached is known now
            continue
        before, after = result.figures.dense.metric, result.figures.pruned.metric
        assert before is not None and after is not None, "tasks without a score are refused before"
        drop = task.drop(before, after)
        shown = format_metric(drop, before, "+")
        tried.append(f"{shown} at {text}")
        events.note(f"latency {text}: the {task.metric_name} is worse by {shown}; at most {budget.max_drop:g} is allowed")
        if result.met and (best is None or _latency_ms(result.figures.pruned) < _latency_ms(best.figures.pruned)):
            best = result
        low, high = (low, min(level, _ratio(result.figures))) if result.met else (level, high)
    if best is None:
        update_document(folder, state="budget missed")
        found = ", ".join(tried) or "nothing, since no tested latency can be reached"
        raise InfeasibleBudgetError(
            f"no pruned model keeps the {task.metric_name} within {budget.max_drop:g}: tried {found}",
            remedy=f"Allow a larger drop, or more epochs. The runs are in {folder}.",
        )
    update_document(folder, state="done", best=best.run.name)
    return best


def _latency_ms(model: ModelSummary) -> float:
    return math.inf if model.latency_ms is None else model.latency_ms


def _ratio(figures: RunSummary) -> float:
    """Of the latencies, as measured in turns where they were."""
    if figures.ratio is not None and figures.ratio.value is not None:
        return figures.ratio.value
    return _latency_ms(figures.pruned) / _latency_ms(figures.dense)
