"""How near plans are to the dense model before they are trained: said here, or by several workers at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

from torch import nn

from edgeprune.batches import Batch
from edgeprune.execute import Send
from edgeprune.graph import Analysis
from edgeprune.search.apart import Setup
from edgeprune.search.candidate import RECONSTRUCTION, CandidateSettings, prune_and_reconstruct
from edgeprune.search.events import SILENT
from edgeprune.search.options import Options
from edgeprune.search.plan.sensitivity import BATCHES
from edgeprune.search.work import Work, Workers
from edgeprune.surgery import Plan
from edgeprune.task import Task
from edgeprune.tuning import finetune, mean_divergence, outputs_on
from edgeprune.tuning.context import seeded

USED, HELD_OUT = max(2 * BATCHES, RECONSTRUCTION), 4
"""Training batches that importance curves and reconstruction have seen, and those after them that plans are compared on."""


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
    seen, last = 0, deque[Batch](maxlen=HELD_OUT)
    with seeded(0):  # a shuffling loader gives the same ones each time
        for batch in islice(task.batches("train"), USED + HELD_OUT):
            seen += 1
            last.append(batch)
    return list(last)[USED - seen :] if seen > USED else list(last)


def judge_apart(setup: Setup, settings: CandidateSettings, plan: Plan, steps: int, send: Send) -> float:
    """:meth:`PlanJudge.divergence` in a worker, whose last judge serves the next plan."""
    wanted = (setup.task.get(), setup.options, setup.state, settings)
    known = next((judge for given, judge in _judges if given[0] is wanted[0] and given[1:] == wanted[1:]), None)
    if known is None:
        task, analysis, model = setup.open()
        known = PlanJudge(task, model, analysis, settings)
        _judges[:] = [(wanted, known)]
    return known.divergence(plan, steps)


_judges: list[tuple[tuple[Task, Options, bytes | None, CandidateSettings], PlanJudge]] = []


@dataclass
class Judges:
    """Judge plans of one model: :class:`PlanJudge` here, or by workers where several have nothing to do.  ``setup``: of that model."""

    workers: Workers
    setup: Callable[[], Setup]
    judge: PlanJudge

    def divergences(
        self, plans: Iterable[tuple[str, Plan]], steps: int = 0, on_done: Callable[[int], None] = lambda _: None
    ) -> Iterator[tuple[str, Callable[[], float]]]:
        """For every named plan a function that returns its divergence, or raises why there is none: to be called before the next is asked
        for.  ``on_done``: gets how many are done, where workers do them."""
        if self.workers.free < 2 or self.workers.alone:
            for name, plan in plans:
                yield name, partial(self.judge.divergence, plan, steps)
            return
        setup, given = self.setup(), list(plans)
        works = [Work(f"judge {name}", judge_apart, (setup, self.judge.settings, plan, steps)) for name, plan in given]
        for (name, _), future in zip(given, self.workers.each(works, on_done), strict=True):
            yield name, future.result
