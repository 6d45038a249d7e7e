"""The closed loop: solve, build, measure, correct, until a plan meets every budget and the models promise no better one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edgeprune.budget import Budget, format_quantity
from edgeprune.cost.width import Widths
from edgeprune.errors import InfeasibleBudgetError
from edgeprune.runs.events import PLANS, PlanMeasured
from edgeprune.search.events import EventStream
from edgeprune.search.measure.paired import PairedMeasurement
from edgeprune.search.plan.metrics import ModelMetrics, budget_utilization, measured_metrics, resolved
from edgeprune.search.plan.planner import Planner

MARGIN, WIDEST_MARGIN, PAST_A_MISS = 0.01, 0.08, 0.2
"""The least and the largest share by which a plan is predicted below the budget; how far to continue where that plan missed."""

MOST_LEFT = 0.15
"""The largest share by which limits are moved for what calibration leaves."""

GAIN = 0.02
"""While the corrected models promise a plan that loses this share less than the best one measured to be inside, it is measured too."""

HEDGE = 0.1
"""How much further below the budget each further plan is predicted of those that are measured at the same time."""


@dataclass(frozen=True)
class MeasuredPlan:
    """A plan that was built and measured."""

    widths: dict[str, int]
    predicted: ModelMetrics
    pair: PairedMeasurement
    metrics: ModelMetrics
    objective: float  # what the importance curves say it keeps
    utilization: float  # the largest share of any budget it takes


def plan_measured(
    number: int, predicted: ModelMetrics, metrics: ModelMetrics, limits: Mapping[str, float], board: str | None = None
) -> PlanMeasured:
    """The event that a plan was measured (by ``board`` of several), with the figures that ``limits`` are about."""
    measured = {kind: amount for kind in limits if (amount := metrics.of(kind)) is not None}
    expected = {kind: predicted.predicted(kind) for kind in measured}
    return PlanMeasured(number, expected, measured, budget_utilization(metrics, limits), board)


def refuse_narrowest(metrics: ModelMetrics, limits: Mapping[str, float]) -> None:
    """Raise :class:`InfeasibleBudgetError` when what was measured of the narrowest plan is over ``limits``."""
    over = {kind: value / limit for kind, limit in limits.items() if (value := metrics.of(kind)) is not None and value > limit}
    if over:
        said = [
            f"{kind} {format_quantity(kind, limits[kind])} cannot be reached: the narrowest plan "
            f"was measured at {format_quantity(kind, share * limits[kind])}; binding: {kind}"
            for kind, share in over.items()
        ]
        raise InfeasibleBudgetError(
            "; ".join(said), remedy="Relax that budget, choose a smaller model or a faster device.", share=max(over.values())
        )


class Loop:
    """``build_and_try(plans)`` makes and measures plans, ``at_once()`` of them at the same time; ``curves``: by group what each of its
    width choices keeps."""

    def __init__(
        self,
        planner: Planner,
        curves: Mapping[str, Sequence[float]],
        budget: Budget,
        dense: ModelMetrics,
        build_and_try: Callable[[Sequence[dict[str, int]]], Sequence[PairedMeasurement]],
        events: EventStream,
        most: int,
        at_once: Callable[[], int] = lambda: 1,
    ) -> None:
        self.planner, self.curves, self.dense = planner, curves, dense
        self.build_and_try, self.events, self.most, self.at_once = build_and_try, events, most, at_once
        self.limits, self.latency_limit = resolved(budget, dense), budget.limits().get("latency")
        self.candidates: list[MeasuredPlan] = []
        self.margin = MARGIN
        self.known: list[tuple[Widths, float, float | None]] = []
        self.over: dict[tuple[int, ...], float] = {}

    def avoid(self, over: Mapping[tuple[int, ...], float]) -> None:
        """Take no plan of these widths again, whose tuned models use more than the budget (that much of it), whatever else was measured."""
        self.over = dict(over)

    def remember(self, observed: Sequence[tuple[Widths, float, float | None]]) -> None:
        """Start from what earlier runs measured: (widths, latency relative to the dense model's, peak bytes)."""
        self.known = [(widths, ratio * self.dense.latency_ms, peak) for widths, ratio, peak in observed]
        self._observe()

    def tighten(self, margin: float) -> None:
        """Aim this much lower than the budget, as far as margins go."""
        self.margin = min(MARGIN + margin, WIDEST_MARGIN)

    def solve(self) -> dict[str, int]:
        """The widths of most value that are predicted to meet every budget: nothing is measured.  Raises :class:`InfeasibleBudgetError`."""
        return self.planner.solve(self.curves, self.limits)

    def run(self) -> MeasuredPlan:
        """The measured plan of the largest objective that meets every budget.  Raises :class:`InfeasibleBudgetError`."""
        margin = self.margin
        while (number := len(self.candidates)) < self.most:
            widths = self._next(margin)
            if widths is None or not self._worth_measuring(widths):
                break
            self.events.progress(PLANS, number, self.most)
            plans = [widths, *self._hedges(margin, widths, min(self.at_once(), self.most - number) - 1)]
            left, candidate = self._left("latency"), self._measure(plans)[0]
            error = abs(left * candidate.metrics.latency_ms / candidate.predicted.latency_ms - 1.0) if number else 0.0
            found = any(known.utilization <= 1.0 for known in self.candidates)  # then nothing is lost by a miss
            margin = self.margin if found else min(max(error / 2, margin + 0.01), WIDEST_MARGIN)
        self.events.progress(PLANS, self.most, self.most)
        met = [candidate for candidate in self.candidates if candidate.utilization <= 1.0]
        if not met:
            raise self._missed()
        return max(met, key=lambda candidate: candidate.objective)

    def _worth_measuring(self, widths: dict[str, int]) -> bool:
        best = max((candidate.objective for candidate in self.candidates if candidate.utilization <= 1.0), default=None)
        whole = sum(curve[-1] for curve in self.curves.values())
        return best is None or self.planner.objective_of(self.curves, widths) > best + GAIN * (whole - best)

    def _next(self, margin: float) -> dict[str, int] | None:
        """The best plan by the present models that was not measured yet; None when there is nothing better to try."""
        measured = {tuple(candidate.widths.values()): candidate.utilization for candidate in self.candidates} | self.over
        while margin <= PAST_A_MISS:
            try:
                widths = self.planner.solve(self.curves, self._inside(margin))
            except InfeasibleBudgetError:
                if any(utilization <= 1.0 for utilization in measured.values()):
                    return None
                if measured:  # what is left to try
                    widths = self.planner.narrowest
                    return widths if tuple(widths.values()) not in measured else None
                try:
                    widths = self.solve()  # no room for the margin
                except InfeasibleBudgetError:
                    widths = self.planner.narrowest  # measured, it may fit
            utilization = measured.get(tuple(widths.values()))
            if utilization is None:
                return widths
            if utilization <= 1.0:
                return None
            margin += max(MARGIN, utilization - 1.0)
        return None

    def _hedges(self, margin: float, first: dict[str, int], count: int) -> list[dict[str, int]]:
        """At most ``count`` further plans, each narrower than the one before: one of them is inside where ``first`` misses."""
        taken = {tuple(plan.values()) for plan in (first, *(candidate.widths for candidate in self.candidates))} | self.over.keys()
        plans: list[dict[str, int]] = []
        for step in range(1, count + 1):
            try:
                widths = self.planner.solve(self.curves, self._inside(margin + step * HEDGE))
            except InfeasibleBudgetError:
                break
            if tuple(widths.values()) not in taken and self._worth_measuring(widths):
                taken.add(tuple(widths.values()))
                plans.append(widths)
        return plans

    def _inside(self, margin: float) -> dict[str, float]:
        """Limits for predictions, by ``margin`` below the budget."""
        return {kind: limit * (1.0 - margin) * self._left(kind) for kind, limit in self.limits.items()}

    def _left(self, kind: str) -> float:
        """What the corrected models still say of the plan nearest to the budget over what it measured: they will be about as wrong of the
        next."""
        nearest = min(self.candidates, key=lambda candidate: abs(candidate.utilization - 1.0), default=None)
        measured = nearest.metrics.of(kind) if nearest else None
        if nearest is None or not measured or (kind == "energy" and nearest.pair.model.energy_mj is None):
            return 1.0
        return min(max(self.planner.predict(nearest.widths).predicted(kind) / measured, 1.0 - MOST_LEFT), 1.0 + MOST_LEFT)

    def _measure(self, plans: Sequence[dict[str, int]]) -> list[MeasuredPlan]:
        predictions, found = [self.planner.predict(widths) for widths in plans], list[MeasuredPlan]()
        for widths, predicted, pair in zip(plans, predictions, self.build_and_try(plans), strict=True):
            metrics = measured_metrics(pair, self.dense.latency_ms, self.latency_limit, predicted)
            objective = self.planner.objective_of(self.curves, widths)
            found.append(MeasuredPlan(widths, predicted, pair, metrics, objective, budget_utilization(metrics, self.limits)))
            number = len(self.candidates) + len(found)
            self.events.emit(plan_measured(number, predicted, metrics, self.limits, pair.board))
        self.candidates += found
        self._observe()
        return found

    def _observe(self) -> None:
        dense = (self.planner.dense, *(self.planner.measured_dense or (self.dense.latency_ms, self.dense.peak_bytes)))
        mine = [(item.widths, item.metrics.latency_ms, item.metrics.peak_bytes) for item in self.candidates]
        self.planner.observe([dense, *self.known, *mine])

    def _missed(self) -> InfeasibleBudgetError:
        if not self.candidates:
            return InfeasibleBudgetError("no further plan can meet the budget")
        nearest = min(self.candidates, key=lambda candidate: candidate.utilization)
        over = [
            f"{kind} {format_quantity(kind, value)} instead of {format_quantity(kind, limit)}"
            for kind, limit in self.limits.items()
            if (value := nearest.metrics.of(kind)) is not None and value > limit
        ]
        return InfeasibleBudgetError(
            f"no plan was measured to meet the budget in {len(self.candidates)} measurements; the nearest plan has {', '.join(over)}",
            remedy="Relax that budget a little, or raise the number of measurements.",
            share=nearest.utilization,
        )
