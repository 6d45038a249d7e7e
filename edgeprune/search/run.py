"""One run, in its directory: new or resumed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from edgeprune.budget import Budget
from edgeprune.errors import InfeasibleBudgetError, RunError
from edgeprune.export import warm
from edgeprune.report import write_report
from edgeprune.runs.directory import RunDirectory, read_inputs
from edgeprune.search.events import Listener
from edgeprune.search.fingerprint import inputs_of, refuse_another
from edgeprune.search.job import Job
from edgeprune.search.options import Options
from edgeprune.search.precision import check_precisions
from edgeprune.search.preflight import check
from edgeprune.search.quantized import prune_in_precisions
from edgeprune.search.summary import summarize, versions
from edgeprune.search.verdicts import verdict_of
from edgeprune.surgery import Plan
from edgeprune.task import Task
from edgeprune.verdict import Verdict

STATES = {Verdict.MET: "done", Verdict.MISSED: "budget missed", Verdict.UNDECIDED: "undecided"}
"""What ``run.json`` says of a finished run."""


@dataclass(frozen=True)
class Result:
    """``model``: pruned and tuned, in eval mode. ``summary``: all figures (see :mod:`edgeprune.report.summary`). ``artifacts``: files
    by format.
    ``checkpoint``: for :func:`edgeprune.load`. ``met``: whether every budget is measured to be met; ``verdict`` tells ``missed`` from
    ``undecided``. ``run``: the run directory."""

    model: nn.Module
    plan: Plan
    summary: dict[str, Any]
    artifacts: dict[str, Path]
    checkpoint: Path
    met: bool
    run: Path
    verdict: Verdict = Verdict.MET


def prune_in(
    run: RunDirectory,
    task: Task,
    target: str | None,
    profile: str | None,
    budget: Budget,
    options: Options,
    listener: Listener,
    recipe: str | None,
    resume: str | None = None,
) -> Result:
    """:func:`edgeprune.prune` in an open run directory, which is closed at the end.  ``resume``: the command that goes on with it."""
    try:
        _begin(run, inputs_of(task, target, profile, budget, options, recipe))
        warm()
        result = _work(Job(task, run, budget, target, profile, options, _Logged(listener, run)), run)
    except BaseException as error:
        _ended(run, error)
        again = "" if isinstance(error, InfeasibleBudgetError) else f" Go on with: {resume or f'edgeprune prune --resume {run.path}'}"
        error.add_note(f"The run is kept in {run.path}.{again}")
        raise
    finally:
        run.close()
    return result


def plan_only(
    task: Task, target: str | None, profile: str | None, budget: Budget, options: Options, run: Path, listener: Listener
) -> dict[str, Any]:
    """What :func:`prune` would do first: the plan and its prediction, with nothing pruned. The table and the dense model are measured
    on a target."""
    check(task, budget, options, listener)
    check_precisions(options.precision, target, options.engine)
    directory = RunDirectory(run)
    try:
        job = Job(task, directory, budget, target, profile, options, _Logged(listener, directory))
        return job.dry_run()
    finally:
        directory.close()


def _begin(run: RunDirectory, inputs: dict[str, Any]) -> None:
    if run.summary:
        refuse_another(run.path, read_inputs(run.path), inputs)
        if "result" not in run.summary:
            run.update(state="running", error=None)
    else:
        run.update(inputs=inputs, created=time.strftime("%Y-%m-%d %H:%M:%S"), versions=versions(), state="running")


def _ended(run: RunDirectory, error: BaseException) -> None:
    """Say in ``run.json`` how a run ended that has no result; one of another job, or that nothing can be written to, stays as it is."""
    state = "interrupted" if not isinstance(error, Exception) else "infeasible" if isinstance(error, InfeasibleBudgetError) else "failed"
    with contextlib.suppress(RunError):
        if not isinstance(error, RunError) and run.summary.get("state") == "running":
            run.update(state=state, error=str(error) or type(error).__name__)


def _work(job: Job, run: RunDirectory) -> Result:
    try:
        before = job.score(job.task.model, "score-dense")
        job.prepare()
        best = prune_in_precisions(job)
    finally:
        if job.backend is not None:
            job.backend.release()
    job, cut = best.job, best.cut
    summary = summarize(job, cut, (before, best.score)) | {"precision": best.precision}
    summary |= {"created": run.summary["created"], "target": run.summary["inputs"]["target"]}
    verdict = verdict_of(summary)
    spent = summary["seconds"]
    job.listener.note(f"took {spent['total']:.0f} s, {100 * spent['export'] / max(spent['total'], 1e-9):.0f} % of it exporting")
    run.write("plan.json", cut.pruned.plan.to_json())
    write_report(summary, run.path / "report.html")
    run.update(state=STATES[verdict], result=summary)
    met = verdict == Verdict.MET
    return Result(cut.pruned.model.eval(), cut.pruned.plan, summary, cut.files, run.path / "model.safetensors", met, run.path, verdict)


class _Logged:
    """Passes everything on, and writes notes to the run's log."""

    def __init__(self, listener: Listener, run: RunDirectory) -> None:
        self.progress: Callable[[str, int, int], None] = listener.progress
        self._note, self._log = listener.note, run.log

    def note(self, text: str) -> None:
        self._log(text)
        self._note(text)
