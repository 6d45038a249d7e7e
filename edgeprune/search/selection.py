"""The choice of an objective: of the plans of all, reconstructed, the one nearest to the dense model's answers wins."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice

from torch import nn

from edgeprune.batches import Batch
from edgeprune.budget import counted
from edgeprune.errors import InfeasibleBudgetError, TrainingError
from edgeprune.graph import Analysis
from edgeprune.runs.directory import RunDirectory
from edgeprune.runs.events import ObjectiveChosen
from edgeprune.search.candidate import RECONSTRUCTION, CandidateSettings, digest, prune_and_reconstruct
from edgeprune.search.events import SILENT, EventStream
from edgeprune.search.options import Options
from edgeprune.search.plan.objective import IMPORTANCE, OBJECTIVES, RECONSTRUCTED, SENSITIVITY, Objective, Objectives
from edgeprune.search.plan.planner import Planner
from edgeprune.search.plan.sensitivity import BATCHES
from edgeprune.surgery import Plan, plan_from_saliency
from edgeprune.task import Task
from edgeprune.tuning import finetune, mean_divergence, outputs_on
from edgeprune.tuning.context import seeded

USED, HELD_OUT = max(2 * BATCHES, RECONSTRUCTION), 4
"""Training batches that importance curves and reconstruction have seen, and those after them that plans are compared on."""

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


class PlanJudge:
    """Says how far a plan's model is from the dense one before training, or after a little: a pure function of picklable inputs.

    ``model``: what is cut, in the dense shapes; the teacher is ``task.model``. The batches are training data that neither importance curves
    nor reconstruction have seen, as far as there is so much.
    """

    def __init__(self, task: Task, model: nn.Module, analysis: Analysis, settings: CandidateSettings) -> None:
        self.task, self.model, self.analysis, self.settings = task, model, analysis, settings
        self._batches = held_out(task)
        with task.on_device(task.model):
            self._answers = outputs_on(task.model, self._batches)

    def divergence(self, plan: Plan, steps: int = 0) -> float:
        """Mean divergence of the answers (temperature 4) of the model that ``plan`` makes, reconstructed, its batch norms recalibrated, and
        trained for ``steps``."""
        pruned = prune_and_reconstruct(self.task, self.model, self.analysis, plan, self.settings, SILENT)
        if steps:
            task = replace(self.task, validation=None, evaluate=None)  # what decides is the divergence, not the metric
            finetune(pruned.model, task, teacher=self.task.model, epochs=steps / self.task.epoch_length(), seed=self.settings.seed)
        with self.task.on_device(pruned.model):
            return mean_divergence(pruned.model, self.task, self._batches, self._answers)


def held_out(task: Task) -> list[Batch]:
    """The training batches after the first :data:`USED`; the last ones where there are no more."""
    with seeded(0):  # a shuffling loader gives the same ones each time
        batches = list(islice(task.batches("train"), USED + HELD_OUT))
    return batches[USED:] or batches[-HELD_OUT:]


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
    are cut."""

    task: Task
    analysis: Analysis
    planner: Planner
    options: Options
    settings: CandidateSettings
    run: RunDirectory
    events: EventStream
    selections: list[Selection] = field(default_factory=list)

    def objective(self, model: nn.Module, stage: int, limits: Mapping[str, float], name: str | None = None) -> Objective:
        """What every width is worth in ``model``: objective ``name``, or the one whose plan under ``limits`` keeps the answers best.

        Recorded in the run as of ``stage``. Where no plan is predicted to be within the limits, which a measurement may know better, the
        first objective that would be compared.
        """
        task = replace(self.task, model=model)
        choices, key = self.planner.choices, f"value-{stage}"
        objectives = Objectives(task, self.analysis, choices, self.options.criterion, self.run, key, self.events)
        names = (name,) if name else candidates_of(self.options, self.task)
        if len(names) == 1 or not self._has_plan(limits):
            return objectives.get(names[0])
        selection = self.run.recall_as(f"objective-{stage}", Selection)
        if selection is None:
            judge = PlanJudge(self.task, model, self.analysis, self.settings)
            selection = self._compared(objectives, names, limits, judge, stage)
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

    def _compared(
        self, objectives: Objectives, names: Sequence[str], limits: Mapping[str, float], judge: PlanJudge, stage: int
    ) -> Selection:
        plans: dict[str, Plan] = {}
        divergences: dict[str, float] = {}
        tried = []
        for number, name in enumerate(names):
            objective = objectives.get(name)
            if number == 0:
                self.events.begin("comparing", f"the plans of {counted(len(names), 'objective')}")
            self.events.progress("comparing plans", number, len(names))
            widths = self.planner.solve(objective.curves, limits)
            plans[name] = plan = plan_from_saliency(self.analysis, objective.saliency, widths)
            if (key := digest(plan)) not in divergences:
                divergences[key] = judge.divergence(plan)
            tried.append(TriedObjective(name, divergences[key], self.planner.predict(widths).latency_ms))
        self.events.progress("comparing plans", len(names), len(names))
        if self.options.race and self._trains:
            tried = self._raced(tried, plans, judge)
        return Selection(stage, min(tried, key=lambda one: one.rank).name, tried)

    def _raced(self, tried: list[TriedObjective], plans: Mapping[str, Plan], judge: PlanJudge) -> list[TriedObjective]:
        """Train the plans that are nearly as good as the best one a little, where there are several of them."""
        best = min(tried, key=lambda one: one.rank).divergence
        near = {digest(plans[one.name]) for one in tried if one.divergence <= NEAR * best}
        if len(near) < 2:
            return tried
        raced: dict[str, float] = {}
        for one in tried:
            key = digest(plans[one.name])
            if key in near and key not in raced:
                self.events.progress("racing plans", len(raced), len(near))
                raced[key] = self._after_training(one.name, plans[one.name], judge)
        self.events.progress("racing plans", len(near), len(near))
        return [replace(one, raced=raced.get(digest(plans[one.name]))) for one in tried]

    def _after_training(self, name: str, plan: Plan, judge: PlanJudge) -> float:
        """The divergence after a short training; infinite where that comes to what is not a number."""
        try:
            return judge.divergence(plan, RACE)
        except TrainingError as error:
            if error.resumable:
                raise
            self.events.note(f"the plan of {name} does not train: {error.message}")
            return math.inf

    @property
    def _trains(self) -> bool:
        """Whether the run trains, in a way that a race can."""
        return self.task.fit is None and self.options.epochs_of(self.task) > 0
