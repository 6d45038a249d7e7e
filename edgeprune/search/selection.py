"""The choice of an objective: of the plans of all, reconstructed, the one nearest to the dense model's answers wins."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial

from torch import nn

from edgeprune.budget import counted
from edgeprune.errors import InfeasibleBudgetError, TrainingError
from edgeprune.graph import Analysis
from edgeprune.runs.directory import RunDirectory
from edgeprune.runs.events import ObjectiveChosen
from edgeprune.search.apart import Setup
from edgeprune.search.candidate import CandidateSettings, digest
from edgeprune.search.events import EventStream
from edgeprune.search.judge import Judges, PlanJudge
from edgeprune.search.options import Options
from edgeprune.search.plan.objective import IMPORTANCE, OBJECTIVES, RECONSTRUCTED, SENSITIVITY, Objective, Objectives
from edgeprune.search.plan.planner import Planner
from edgeprune.search.spread import spread
from edgeprune.search.work import Workers
from edgeprune.surgery import Plan, plan_from_saliency
from edgeprune.task import Task

NEAR, RACE = 1.15, 30
"""Plans whose divergence is at most that many times the least are raced, if asked: trained for so many steps."""


@dataclass(frozen=True)
class TriedObjective:
    """``divergence``: of its plan's answers from the dense model's, after reconstruction. ``latency_ms``: predicted of that plan.
    ``raced``: the divergence after a short training; None where there was none."""

    name: str
    divergence: float
    latency_ms: float
    raced: float | None = None

    @property
    def rank(self) -> tuple[bool, bool, float]:
        """The least is the best: what was trained was among the best before; what is not a number comes last."""
        value = self.divergence if self.raced is None else self.raced
        return not math.isfinite(value), self.raced is None, value


@dataclass(frozen=True)
class Selection:
    """The objectives that were tried for ``stage``, in order, and the one that is ``chosen``."""

    stage: int
    chosen: str
    tried: list[TriedObjective]


def candidates_of(options: Options, task: Task) -> tuple[str, ...]:
    """The objectives that a run chooses among."""
    if options.objective != "auto":
        return (options.objective,)
    if task.train is None:
        return (SENSITIVITY,)
    if not options.sensitivity:
        return (IMPORTANCE,)
    if options.training == "scratch":
        return (SENSITIVITY,)
    return tuple(name for name in OBJECTIVES if options.reconstruction or name != RECONSTRUCTED)


@dataclass
class Selector:
    """Finds the objective to follow in every stage of a run; ``selections``: what was tried, in order.  ``settings``: how its candidates
    are cut. ``setup``: what ``workers`` start from, for a model."""

    task: Task
    analysis: Analysis
    planner: Planner
    options: Options
    settings: CandidateSettings
    run: RunDirectory
    events: EventStream
    workers: Workers
    setup: Callable[[nn.Module], Setup]
    selections: list[Selection] = field(default_factory=list)

    def objective(self, model: nn.Module, stage: int, limits: Mapping[str, float], name: str | None = None) -> Objective:
        """What every width is worth in ``model``: objective ``name``, or the one whose plan under ``limits`` keeps the answers best.

        Recorded in the run as of ``stage``. Where no plan is predicted to be within the limits, which a measurement may know better, the
        first objective that would be compared.
        """
        task, setup = replace(self.task, model=model), partial(self.setup, model)
        choices, key = self.planner.choices, f"value-{stage}"
        growths = spread(self.workers, setup, task, self.analysis)
        objectives = Objectives(task, self.analysis, choices, self.options.criterion, self.run, key, self.events, growths)
        names = (name,) if name else candidates_of(self.options, self.task)
        if len(names) == 1 or not self._has_plan(limits):
            return objectives.get(names[0])
        selection = self.run.recall_as(f"objective-{stage}", Selection)
        if selection is None:
            judges = Judges(self.workers, setup, PlanJudge(self.task, model, self.analysis, self.settings))
            selection = self._compared(objectives, names, limits, judges, stage)
            self.run.record(f"objective-{stage}", asdict(selection))
        self.selections.append(selection)
        divergences = {one.name: one.divergence if one.raced is None else one.raced for one in selection.tried}
        self.events.emit(ObjectiveChosen(selection.chosen, divergences))
        return objectives.get(selection.chosen)

    def _has_plan(self, limits: Mapping[str, float]) -> bool:
        try:
            self.planner.refuse_impossible(limits)
        except InfeasibleBudgetError:
            return False
        return True

    def _compared(self, objectives: Objectives, names: Sequence[str], limits: Mapping[str, float], judges: Judges, stage: int) -> Selection:
        plans: dict[str, Plan] = {}
        latencies: dict[str, float] = {}

        def different() -> Iterator[tuple[str, Plan]]:
            for number, name in enumerate(names):
                objective = objectives.get(name)
                if number == 0:
                    self.events.begin("comparing", f"the plans of {counted(len(names), 'objective')}")
                self.events.progress("comparing plans", number, len(names))
                widths = self.planner.solve(objective.curves, limits)
                plan, latencies[name] = (
                    plan_from_saliency(self.analysis, objective.saliency, widths),
                    self.planner.predict(widths).latency_ms,
                )
                new = digest(plan) not in map(digest, plans.values())
                plans[name] = plan
                if new:
                    yield digest(plan), plan

        divergences = {key: divergence() for key, divergence in judges.divergences(different())}
        tried = [TriedObjective(name, divergences[digest(plans[name])], latencies[name]) for name in names]
        self.events.progress("comparing plans", len(names), len(names))
        if self.options.race and self._trains:
            tried = self._raced(tried, plans, judges)
        return Selection(stage, min(tried, key=lambda one: one.rank).name, tried)

    def _raced(self, tried: list[TriedObjective], plans: Mapping[str, Plan], judges: Judges) -> list[TriedObjective]:
        """Train the plans that are nearly as good as the best one a little, where there are several of them."""
        best = min(tried, key=lambda one: one.rank).divergence
        near: dict[str, tuple[str, Plan]] = {}
        for one in tried:
            if one.divergence <= NEAR * best:
                near.setdefault(digest(plans[one.name]), (one.name, plans[one.name]))
        if len(near) < 2:
            return tried
        raced: dict[str, float] = {}

        def shown(done: int) -> None:
            self.events.progress("racing plans", done, len(near))

        shown(0)
        for number, (key, divergence) in enumerate(judges.divergences(((key, plan) for key, (_, plan) in near.items()), RACE, shown), 1):
            raced[key] = self._after_training(near[key][0], divergence)
            shown(number)
        return [replace(one, raced=raced.get(digest(plans[one.name]))) for one in tried]

    def _after_training(self, name: str, divergence: Callable[[], float]) -> float:
        """The divergence after a short training; infinite where that comes to what is not a number."""
        try:
            return divergence()
        except TrainingError as error:
            if error.resumable:
                raise
            self.events.note(f"the plan of {name} does not train: {error.message}")
            return math.inf

    @property
    def _trains(self) -> bool:
        """Whether the run trains, in a way that a race can."""
        return self.task.fit is None and self.options.epochs_of(self.task) > 0
