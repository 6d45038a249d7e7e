"""A job in several precisions: each is cut, tuned and measured for itself, and the best file that meets the budgets is kept."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from edgeprune.budget import format_metric, format_quantity
from edgeprune.cost.prior import power_of
from edgeprune.errors import ExportError, InfeasibleBudgetError
from edgeprune.export.formats import find
from edgeprune.runs.directory import RunDirectory
from edgeprune.search.candidate import PrunedCandidate
from edgeprune.search.job import Job
from edgeprune.search.measure.archive import Archive
from edgeprune.search.measure.device import DeviceBackend
from edgeprune.search.plan.metrics import budget_utilization
from edgeprune.search.plan.planner import Planner, all_choices
from edgeprune.search.precision import Precision, check_precisions, find_precision
from edgeprune.task import device_inputs


@dataclass
class Outcome:
    """What one precision came to.  ``score``: the task's metric computed with the file that was measured; None when the task has none."""

    precision: str
    job: Job
    cut: PrunedCandidate
    score: float | None

    @property
    def rank(self) -> tuple[bool, float, float]:
        """Budgets come first, then the metric, then the latency."""
        met = budget_utilization(self.cut.figures, self.job.limits) <= 1.0
        return met, 0.0 if self.score is None else self.job.task.drop(self.score, 0.0), -self.cut.figures.latency_ms


class QuantizedJob(Job):
    """``job``, prepared, in another precision, in a run directory of its own inside.  Budgets are those of the dense float32 model, which
    stays the baseline of every measurement."""

    def __init__(self, job: Job, precision: Precision) -> None:
        check_precisions([precision.name], job.backend.target if job.backend else None, job.engine)
        assert isinstance(job.backend, DeviceBackend)
        directory = RunDirectory(job.run_directory.path / precision.name)
        directory.adopt(job.run_directory.path / "measurements.jsonl")
        self.precision, self._start = precision, job
        super().__init__(job.task, directory, job.budget, job.backend.target, job.profile.name, job.options, job.listener)

    def prepare(self) -> None:
        """Take over what the float32 job knows; measure the dense model in this precision in turns with it."""
        job = self._start
        self.analysis, self.profile, self.dense, self.dense_measurement = job.analysis, job.profile, job.dense, job.dense_measurement
        choices = all_choices(self.analysis, self.options.step or self.profile.channel_step)
        self.planner = Planner(self.analysis, self._times(choices), choices, power_of(self.profile), self.precision.storage)
        path = self._export(self.task.model, "dense", (self.engine,))[self.engine]
        assert self.backend is not None
        trial = self.backend.measure_pair("dense-trial", self._dense_file, path)
        self.planner.observe_dense(trial.ratio * self.dense.latency_ms, trial.model.peak_bytes, path.stat().st_size, trial.model.energy_mj)
        self.listener.note(f"{self.precision.name}: the dense model takes {trial.ratio:.2f} of its float32 latency")

    @property
    def engine(self) -> str:
        """The format that is measured."""
        return self.precision.format

    @property
    def _dense_file(self) -> Path:
        return self._start._dense_file

    def _archive(self) -> Archive | None:
        archive, facts = super()._archive(), self.backend.facts if self.backend else {}
        return archive and Archive.of(f"{facts['key']}-{self.precision.name}", facts["threads"], self.analysis)

    def _check_outputs(self, model: nn.Module, path: Path) -> None:
        """The device computes with the file what the host computes with it."""
        assert isinstance(self.backend, DeviceBackend)
        inputs = device_inputs(self.task.example_inputs, self.options.seed)
        self.backend.compare_outputs(path, inputs, find(self.engine).run(path, inputs), self.precision.tolerance)


def prune_in_precisions(job: Job) -> Outcome:
    """Prune ``job``, prepared, in every precision of its options, one after another, and return the best: of those that meet the budgets
    the one whose exported file scores best.

    Files and checkpoint of the best are in ``job``'s run directory. A precision that cannot reach the budgets, or in which the model
    collapses, is noted and left out; raises what the last one raised when there is none.
    """
    if job.options.precision == ("fp32",):
        cut = job.prune()
        return Outcome("fp32", job, cut, job.score_cut(cut))
    outcomes: list[Outcome] = []
    failure: Exception | None = None
    for name in job.options.precision:
        try:
            outcomes.append(_outcome(job, name))
        except (InfeasibleBudgetError, ExportError) as error:
            job.listener.note(f"{name}: {error.message}")
            failure = error
    if not outcomes:
        assert failure is not None
        raise failure
    best = max(outcomes, key=lambda outcome: outcome.rank)
    job.listener.note(f"{best.precision} is kept of {', '.join(job.options.precision)}")
    if best.job is not job:
        _move(best, job.run_directory)
    return best


def _outcome(job: Job, name: str) -> Outcome:
    one, backend = job, job.backend
    if backend is not None:
        backend.release()
    try:
        if name != "fp32":
            one = QuantizedJob(job, find_precision(name))
            one.prepare()
        cut = one.prune()
        score = one.score_file(cut)
    finally:
        if one.backend is not None:
            one.backend.release()
        if one is not job:
            one.run_directory.close()
    shown = "" if score is None else f", {job.task.metric_name} {format_metric(score)}"
    job.listener.note(f"{name}: {format_quantity('latency', cut.figures.latency_ms)}{shown}")
    return Outcome(name, one, cut, score)


def _move(best: Outcome, run: RunDirectory) -> None:
    """Put the best precision's files and checkpoint where those of a run are."""
    inside = best.job.run_directory
    files = {}
    for name, path in best.cut.files.items():
        files[name] = run.artifacts / path.relative_to(inside.artifacts)
        files[name].parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, files[name])
    shutil.copy2(inside.path / "model.safetensors", run.path / "model.safetensors")
    best.cut.files = files
    best.job.run_directory = run
