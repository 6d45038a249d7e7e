"""A run's budgets judged: one verdict a limit, of what the final session measured."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgeprune.bench.limits import Gate
from edgeprune.bench.results import Ratio
from edgeprune.budget import Budget, Limit
from edgeprune.runs.summary import BudgetSummary, JudgedSummary, RunSummary
from edgeprune.search.measure.paired import PairedMeasurement
from edgeprune.search.plan.metrics import ModelMetrics
from edgeprune.task import Task
from edgeprune.tuning.metrics import NORMAL_95, Score
from edgeprune.verdict import Interval, Verdict, judge, overall

EXACT = 1e-6
"""Metrics are sums of float32: what a drop may be above its limit all the same."""

NEAR = 0.05
"""How far above a limit, as a share of it, the interval of an undecided model may reach for a narrower plan to help."""


@dataclass(frozen=True)
class Judged:
    """The ``verdict`` on a limit: ``found`` was compared with ``limit``, in the kind's base unit, or where ``relative`` as shares of the
    dense model's latency."""

    verdict: Verdict
    found: Interval | None
    limit: float
    relative: bool = False


def judge_pair(limit: Limit, pair: PairedMeasurement) -> Judged:
    """The verdict on what was measured: of a relative latency on the ratio of the models measured in turns, else on the session's own
    figure."""
    ratio = Ratio.judge(pair.model.name, pair.ratio, pair.low, pair.high)
    judged = Gate(str(limit), limit).judge(pair.model, pair.dense, ratio)
    return Judged(judged.verdict, judged.found, judged.limit, limit.relative and limit.kind == "latency")


def doubtful_share(limit: Limit | None, pair: PairedMeasurement | None) -> float:
    """Where ``pair`` leaves a limit undecided, the share of it that the end of its interval takes; 0 where it decides, or the interval is
    so wide that the measuring is to blame, not the plan."""
    if limit is None or pair is None:
        return 0.0
    judged = judge_pair(limit, pair)
    if judged.verdict != Verdict.UNDECIDED or judged.found is None:
        return 0.0
    share = judged.found.high / judged.limit
    return share if share <= 1.0 + NEAR else 0.0


def judge_limit(limit: Limit, dense: ModelMetrics, metrics: ModelMetrics, pair: PairedMeasurement | None) -> Judged:
    """What ``pair`` measured is judged with its interval, what was counted or predicted as it is."""
    if pair is not None and pair.measures(limit.kind):
        return judge_pair(limit, pair)
    value, base = metrics.of(limit.kind), dense.of(limit.kind)
    found = None if value is None else Interval.exact(value)
    bound = math.nan if limit.relative and base is None else limit.resolve(base or 0.0)
    return Judged(judge(found, bound), found, bound)


def judge_budget(
    task: Task,
    budget: Budget,
    dense: ModelMetrics,
    metrics: ModelMetrics,
    pair: PairedMeasurement | None,
    scores: tuple[Score | None, Score | None],
) -> dict[str, BudgetSummary]:
    """Every limit by kind, judged.  ``scores``: of the dense and of the final model."""
    result: dict[str, BudgetSummary] = {}
    for kind, limit in budget.limits().items():
        base = dense.of(kind)
        absolute = None if limit.relative and base is None else limit.resolve(base or 0.0)
        result[kind] = _entry(getattr(budget, kind), absolute, judge_limit(limit, dense, metrics, pair))
    if budget.max_drop is not None:
        found = drop_between(task, *scores)
        judged = Judged(judge(found, budget.max_drop + EXACT), found, budget.max_drop)
        result["max_drop"] = _entry(f"{budget.max_drop:g}", budget.max_drop, judged)
    return result


def drop_between(task: Task, before: Score | None, after: Score | None) -> Interval | None:
    """By how much the metric is worse ``after``, with its 95 % interval from the paired differences on the validation samples; a single
    number where its error is not known (``task.evaluate`` scores)."""
    if before is None or after is None:
        return None
    drop, error = task.drop(before.value, after.value), after.difference_error(before)
    margin = NORMAL_95 * (error or 0.0)
    return Interval(drop, drop - margin, drop + margin)


def _entry(text: str, limit: float | None, judged: Judged) -> BudgetSummary:
    met = {Verdict.MET: True, Verdict.MISSED: False, Verdict.UNDECIDED: None}[judged.verdict]
    shown = None
    if (found := judged.found) is not None:
        shown = JudgedSummary(found.value, found.low, found.high, judged.limit, judged.relative)
    return BudgetSummary(text, limit, shown, judged.verdict, met)


def verdict_of(summary: RunSummary) -> Verdict:
    """Of all budgets of a run together."""
    return overall(item.verdict or Verdict.UNDECIDED for item in summary.budget.values())
