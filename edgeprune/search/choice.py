"""A job in several precisions: each is cut, tuned and measured for itself, and the best file that meets the budgets is kept."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgeprune.budget import format_metric, format_quantity
from edgeprune.errors import ExportError, InfeasibleBudgetError
from edgeprune.files import copy_atomically
from edgeprune.runs.directory import RunDirectory
from edgeprune.search.candidate import PrunedCandidate
from edgeprune.search.events import Mingled
from edgeprune.search.job import Job
from edgeprune.search.measure.decide import final_keys
from edgeprune.search.plan.metrics import budget_utilization
from edgeprune.search.precision import Precision, check_precisions, find_precision
from edgeprune.search.work import Steps


@dataclass(frozen=True)
class Outcome:
    """The result of one precision.  ``score``: the task's metric computed with the file that was measured; None when the task has none."""

    precision: str
    job: Job
    final: PrunedCandidate
    score: float | None

    @property
    def rank(self) -> tuple[bool, float, float]:
        """Budgets come first, then the metric, then the latency."""
        met = budget_utilization(self.final.metrics, self.job.limits) <= 1.0
        return met, 0.0 if self.score is None else self.job.task.drop(self.score, 0.0), -self.final.metrics.latency_ms


def prune_in_precisions(job: Job) -> Steps[Outcome]:
    """Prune ``job``, prepared, in every precision of its options, side by side where there are workers, and return the best: of those that
    meet the budgets the one whose exported file scores best.

    Files and checkpoint of the best are in ``job``'s run directory. A precision that cannot reach the budgets, or in which the model
    collapses, is noted and left out; raises what the last one raised when there is none.
    """
    if job.options.precision == ("fp32",):
        final = yield from job.prune()
        return Outcome("fp32", job, final, job.score(final))

    def tried(name: str) -> Steps[Outcome | InfeasibleBudgetError | ExportError]:
        try:
            return (yield from _outcome(job, name))
        except (InfeasibleBudgetError, ExportError) as error:
            job.events.note(f"{name}: {error.message}")
            return error

    found = yield from job.workers.together([tried(name) for name in job.options.precision])
    outcomes = [one for one in found if isinstance(one, Outcome)]
    if not outcomes:
        raise next(one for one in reversed(found) if isinstance(one, Exception))
    best = max(outcomes, key=lambda outcome: outcome.rank)
    job.events.note(f"{best.precision} is kept of {', '.join(job.options.precision)}")
    return best if best.job is job else _moved(best, job)


def _outcome(job: Job, name: str) -> Steps[Outcome]:
    job.backend.release()
    one = job if name == "fp32" else _in_precision(job, find_precision(name))
    try:
        final = yield from one.prune()
        score = one.scores.of_file(final.files[one.engine], one.engine, final.score_key)
    finally:
        one.backend.release()
        if one is not job:
            one.run_directory.close()
    shown = "" if score is None else f", {job.task.metric_name} {format_metric(score)}"
    job.events.note(f"{name}: {format_quantity('latency', final.metrics.latency_ms)}{shown}")
    return Outcome(name, one, final, score)


def _in_precision(job: Job, precision: Precision) -> Job:
    """``job``, prepared, in another precision and in a run directory of its own inside.

    Budgets are those of the dense model in ``job``'s precision, which stays the baseline of every measurement.
    """
    check_precisions([precision.name], job.request.target, job.engine)
    directory = RunDirectory(job.run_directory.path / precision.name)
    directory.adopt(job.run_directory.path / "measurements.jsonl")
    request = replace(job.request, profile=job.profile.name, facts=job.profile)
    events = job.events if job.workers.alone else Mingled(job.events).of(precision.name)
    one = Job(request, directory, events, precision, job.workers)
    one.analysis, one.profile, one.dense, one.dense_measurement = job.analysis, job.profile, job.dense, job.dense_measurement
    one.baseline = job.baseline
    one.planner = one.new_planner()
    path = one.artifacts.dense(precision.format)
    pair = one.backend.measure_pair("dense-trial", one.baseline, path)
    assert pair is not None, "a precision is refused where nothing is measured"
    latency_ms = pair.ratio * job.dense.latency_ms
    one.planner.observe_dense(latency_ms, pair.model.peak_bytes, path.stat().st_size, pair.model.energy_mj)
    job.events.note(f"{precision.name}: the dense model takes {pair.ratio:.2f} of its float32 latency")
    return one


def _moved(best: Outcome, job: Job) -> Outcome:
    """The best precision's outcome with its files, checkpoint and records where those of ``job`` are."""
    inside, run = best.job.run_directory, job.run_directory
    job.artifacts.clear("pruned")
    copy_atomically(inside.path / "model.safetensors", run.path / "model.safetensors")
    files = {}
    for name, path in best.final.files.items():
        files[name] = run.artifacts / path.relative_to(inside.artifacts)
        files[name].parent.mkdir(parents=True, exist_ok=True)
        copy_atomically(path, files[name])
    for key in (*final_keys(best.final.key), best.final.score_key):  # of the shipped file, where a release looks for them
        if run.recall(key) is None and (known := inside.recall(key)) is not None:
            run.record(key, known)
    best.job.run_directory = run
    return replace(best, final=replace(best.final, files=files))
