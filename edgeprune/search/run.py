"""One run, in its directory: new or resumed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

from torch import nn

from edgeprune.errors import InfeasibleBudgetError, RunError, may_succeed
from edgeprune.export import warm
from edgeprune.placement import resolve
from edgeprune.report import write_report
from edgeprune.report.failure import write_failure
from edgeprune.report.html import summary_table
from edgeprune.report.summary import headline, title
from edgeprune.runs.directory import RunDirectory, how_to_continue
from edgeprune.runs.document import read_inputs
from edgeprune.runs.events import BudgetJudged, Event, EventFile, Progress, RunEnded, RunStarted
from edgeprune.runs.summary import RunSummary
from edgeprune.search.choice import prune_in_precisions
from edgeprune.search.events import EventStream
from edgeprune.search.fingerprint import Fingerprint, refuse_another
from edgeprune.search.job import Job
from edgeprune.search.options import Options
from edgeprune.search.preflight import check_task
from edgeprune.search.request import RunRequest
from edgeprune.search.scores import DENSE
from edgeprune.search.summary import summarize, versions
from edgeprune.search.verdicts import verdict_of
from edgeprune.search.work import Steps, Workers
from edgeprune.surgery import Plan
from edgeprune.verdict import Verdict

STATES = {Verdict.MET: "done", Verdict.MISSED: "budget missed", Verdict.UNDECIDED: "undecided"}
"""What ``run.json`` says of a finished run."""

Ended = Callable[[Verdict], None]
"""Says that a run has ended, and with what."""


@dataclass(frozen=True, repr=False)
class Result:
    """The result of a run.

    ``model``: pruned and tuned, in eval mode. ``figures``: all that was found. ``artifacts``: files by format. ``checkpoint``: for
    :func:`edgeprune.load`. ``met``: whether every budget is measured to be met; ``verdict`` distinguishes ``missed`` from ``undecided``.
    ``run``: the run directory.
    """

    model: nn.Module
    plan: Plan
    figures: RunSummary
    artifacts: dict[str, Path]
    checkpoint: Path
    met: bool
    run: Path
    verdict: Verdict = Verdict.MET

    @cached_property
    def summary(self) -> dict[str, Any]:
        """``figures`` in JSON's types."""
        return self.figures.to_json()

    def __repr__(self) -> str:
        outcome, _ = headline(self.figures)
        return f"<Result of {title(self.figures)}: {outcome}; {self.run}>"

    def _repr_html_(self) -> str:
        """What notebooks show: the outcome and the figures before and after."""
        return summary_table(self.figures)


def prune_in(run: RunDirectory, request: RunRequest, events: EventStream, workers: Workers, resume: str | None = None) -> Steps[Result]:
    """:func:`edgeprune.prune` in an open run directory, which is closed at the end.  ``resume``: what continues it, where that is not the
    run's own command."""
    with contextlib.closing(run):
        started = RunStarted(str(run.path), request.task.name, request.target, request.profile, _begin(run, request.fingerprint))
        with attempt(run, events, started, resume or how_to_continue(run.path, request.recipe)) as (kept, ended):
            kept.note(f"computing on {resolve(request.options.applied(request.task).device).text}")
            start_converter(request.options)
            result = yield from _work(Job(request, run, kept, workers=workers), run)
            ended(result.verdict)
    return result


def start_converter(options: Options) -> None:
    """Start the converter in the background, where a run needs it: before what takes a while without it, and before a device is measured,
    which may be this machine."""
    if options.converts:
        warm()


@contextmanager
def attempt(run: RunDirectory, events: EventStream, started: RunStarted, again: str) -> Iterator[tuple[EventStream, Ended]]:
    """A run is worked on inside: with events that its log and event file hear as well, and a function to be called at its end.

    What ends it earlier is an event and a state of ``run.json``, and says where the run is, and unless it happens again how it is continued
    (``again``).
    """
    begun, kept = time.monotonic(), _kept(events, run)
    try:
        kept.emit(started)
        yield kept, lambda verdict: kept.emit(RunEnded(STATES[verdict], time.monotonic() - begun))
    except BaseException as error:
        if (state := _ended(run, error)) is not None:
            kept.emit(RunEnded(state, time.monotonic() - begun, _said(error)))
            with contextlib.suppress(OSError, RunError):  # the error itself is what is told
                write_failure(run.path, again if may_succeed(error) else None)
        error.add_note(_kept_in(run.path, error, again))
        raise


def _kept_in(path: Path, error: BaseException, resume: str) -> str:
    """Where a run is that ``error`` ended, and how it is continued unless that must fail."""
    again = f" Continue with: {resume}" if may_succeed(error) else ""
    return f"The run is kept in {path}.{again}"


class PlannedGroup(TypedDict):
    """How many of a group's channels are kept."""

    name: str
    kept: int
    total: int


class Planned(TypedDict):
    """A plan and its prediction.  ``dense``, ``predicted``: figures by name; ``limits``: by kind, in its base unit."""

    groups: list[PlannedGroup]
    dense: dict[str, float]
    predicted: dict[str, float]
    limits: dict[str, float]
    measured: bool


def plan_only(request: RunRequest, run: Path, events: EventStream) -> Planned:
    """What :func:`edgeprune.prune` would do first: the plan and its prediction, with nothing pruned. The table and the dense model are
    measured on a target."""
    check_task(request, events)
    directory = RunDirectory(run)
    try:
        job = Job(request, directory, _kept(events, directory))
        job.prepare()
        if job.options.schedule in ("iterative", "online"):
            job.events.note(f"the {job.options.schedule} schedule prunes in steps: this plan is for a single step")
        job.planner.refuse_impossible(job.limits)
        widths = job.planner.solve(job.objective(job.task.model, 0, job.limits).curves, job.limits)
        groups: list[PlannedGroup] = [
            {"name": group.name, "kept": widths[group.name] * len(group.rows), "total": group.channels} for group in job.analysis.groups
        ]
        predicted = asdict(job.planner.predict(widths))
        return {"groups": groups, "dense": asdict(job.dense), "predicted": predicted, "limits": job.limits, "measured": False}
    finally:
        directory.close()


def _begin(run: RunDirectory, inputs: Fingerprint) -> bool:
    """Record the inputs in ``run.json``; return whether an earlier run is continued."""
    known = run.document
    resumed = bool(known)
    if resumed:
        refuse_another(run.path, read_inputs(run.path), inputs)
        if known.get("result") is None:
            run.update(state="running", error=None)
    else:
        run.update(inputs=inputs, created=time.strftime("%Y-%m-%d %H:%M:%S"), versions=versions(), state="running")
    return resumed


def _ended(run: RunDirectory, error: BaseException) -> str | None:
    """Say in ``run.json`` how a run ended that has no result; one of another job, or that nothing can be written to, stays as it is, and
    None is returned."""
    state = "interrupted" if not isinstance(error, Exception) else "infeasible" if isinstance(error, InfeasibleBudgetError) else "failed"
    with contextlib.suppress(RunError):
        document = run.document
        if not isinstance(error, RunError) and document.get("state", "running") == "running":
            if document:
                run.update(state=state, error=_said(error))
            return state
    return None


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _work(job: Job, run: RunDirectory) -> Steps[Result]:
    try:
        job.scores.of_model(job.task.model, DENSE)
        job.prepare()
        best = yield from prune_in_precisions(job)
    finally:
        job.backend.release()
    job, final = best.job, best.final
    summary = summarize(job, final, best.precision)
    verdict = verdict_of(summary)
    for kind, one in summary.budget.items():
        found = one.judged
        value, low, high = (found.value, found.low, found.high) if found else (None, None, None)
        job.events.emit(BudgetJudged(kind, one.text, value, low, high, one.verdict))
    spent = summary.seconds
    job.events.note(f"took {spent['total']:.0f} s, {100 * spent['export'] / max(spent['total'], 1e-9):.0f} % of it exporting")
    run.write("plan.json", final.pruned.plan.to_json())
    write_report(summary, run.path / "report.html")
    run.update(state=STATES[verdict], result=summary.to_json())
    model, checkpoint = final.pruned.model.eval(), run.path / "model.safetensors"
    return Result(model, final.pruned.plan, summary, final.files, checkpoint, verdict == Verdict.MET, run.path, verdict)


def _kept(events: EventStream, run: RunDirectory) -> EventStream:
    """The stream that also writes the run's log and its event file."""

    def log(event: Event) -> None:
        if not isinstance(event, Progress) and event.text is not None:
            run.log(event.text)

    return events.also(log, EventFile(run.path))
