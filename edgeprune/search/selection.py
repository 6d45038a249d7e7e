"""The choice of an objective: of the plans of all, reconstructed, the one nearest to the dense model's answers wins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice

from torch import nn

from edgeprune.batches import Batch
from edgeprune.graph import Analysis
from edgeprune.runs.directory import RunDirectory
from edgeprune.runs.events import ObjectiveChosen
from edgeprune.search.candidate import RECONSTRUCTION, CandidateSettings, digest, prune_and_reconstruct
from edgeprune.search.events import EventStream
from edgeprune.search.options import Options
from edgeprune.search.plan.objective import IMPORTANCE, OBJECTIVES, RECONSTRUCTED, SENSITIVITY, Objective, Objectives
from edgeprune.search.plan.planner import Planner
from edgeprune.search.plan.sensitivity import BATCHES, CALIBRATION
from edgeprune.surgery import Plan, plan_from_saliency
from edgeprune.task import Task
from edgeprune.tuning import mean_divergence, outputs_on
from edgeprune.tuning.context import seeded

USED, HELD_OUT = max(CALIBRATION + BATCHES, RECONSTRUCTION), 4
"""Training batches that importance curves and reconstruction have seen, and those after them that plans are compared on."""


@dataclass(frozen=True)
class TriedObjective:
    """``divergence``: of its plan's answers from the dense model's, after reconstruction. ``latency_ms``: predicted of that plan."""

    name: str
    divergence: float
    latency_ms: float


@dataclass(frozen=True)
class Selection:
    """The objectives that were tried for ``stage``, in order, and the one that is ``chosen``."""

    stage: int
    chosen: str
    tried: list[TriedObjective]


class PlanJudge:
    """Says how far a plan's model is from the dense one before any training: a pure function of the plan, its inputs picklable.

    ``model``: what is cut, in the dense shapes; the teacher is ``task.model``. The batches are training data that neither importance curves
    nor reconstruction have seen, as far as there is so much.
    """

    def __init__(self, task: Task, model: nn.Module, analysis: Analysis, settings: CandidateSettings, events: EventStream) -> None:
        self.task, self.model, self.analysis, self.settings, self.events = task, model, analysis, settings, events
        self._batches = held_out(task)
        with task.on_device(task.model):
            self._answers = outputs_on(task.model, self._batches)

    def divergence(self, plan: Plan) -> float:
        """Mean divergence of the answers (temperature 4) of the model that ``plan`` makes, reconstructed, its batch norms recalibrated."""
        pruned = prune_and_reconstruct(self.task, self.model, self.analysis, plan, self.settings, self.events)
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
    if task.train is None or options.training == "scratch":
        return (SENSITIVITY,)
    if not options.sensitivity:
        return (IMPORTANCE,)
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

        Recorded in the run as of ``stage``. Raises :class:`InfeasibleBudgetError` when no plan is within the limits.
        """
        task = replace(self.task, model=model)
        choices, key = self.planner.choices, f"value-{stage}"
        objectives = Objectives(task, self.analysis, choices, self.options.criterion, self.run, key, self.events)
        names = (name,) if name else candidates_of(self.options, self.task)
        if len(names) == 1:
            return objectives.get(names[0])
        selection = self.run.recall_as(f"objective-{stage}", Selection)
        if selection is None:
            judge = PlanJudge(self.task, model, self.analysis, self.settings, self.events)
            selection = self._compared(objectives, names, limits, judge, stage)
            self.run.record(f"objective-{stage}", asdict(selection))
        self.selections.append(selection)
        divergences = {one.name: one.divergence for one in selection.tried}
        self.events.emit(ObjectiveChosen(selection.chosen, divergences))
        return objectives.get(selection.chosen)

    def _compared(
        self, objectives: Objectives, names: Sequence[str], limits: Mapping[str, float], judge: PlanJudge, stage: int
    ) -> Selection:
        divergences: dict[str, float] = {}
        tried = []
        for number, name in enumerate(names):
            self.events.progress("comparing plans", number, len(names))
            objective = objectives.get(name)
            widths = self.planner.solve(objective.curves, limits)
            plan = plan_from_saliency(self.analysis, objective.saliency, widths)
            if (key := digest(plan)) not in divergences:
                divergences[key] = judge.divergence(plan)
            tried.append(TriedObjective(name, divergences[key], self.planner.predict(widths).latency_ms))
        self.events.progress("comparing plans", len(names), len(names))
        return Selection(stage, min(tried, key=lambda one: one.divergence).name, tried)
