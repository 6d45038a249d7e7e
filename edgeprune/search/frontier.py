"""Several runs of one job at different limits: the accuracy-latency front."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgeprune.budget import FIGURES, Budget
from edgeprune.decode import convert
from edgeprune.errors import InfeasibleBudgetError, InputError, RunError, suggest
from edgeprune.report.frontier import write_frontier
from edgeprune.runs.directory import RunDirectory, how_to_continue
from edgeprune.runs.document import read_inputs, update_document
from edgeprune.runs.summary import RunSummary, read_summary
from edgeprune.runs.sweep import Frontier, Point, pareto
from edgeprune.search.events import EventStream, Listener, Mingled, Notes, heard
from edgeprune.search.fingerprint import Fingerprint, refuse_another
from edgeprune.search.options import Options
from edgeprune.search.preflight import check_task, preflight
from edgeprune.search.request import RunRequest
from edgeprune.search.run import Result, prune_in
from edgeprune.search.work import Steps, Workers
from edgeprune.search.workers import open_workers
from edgeprune.task import Task

LEVELS = ("80%", "65%", "50%", "40%", "30%")


class Sweep:
    """Runs of ``request`` that differ in one limit, in folders of ``folder``, each resumable; what they have in common is done once.
    ``command``: the one that continues all of them, and its function. ``side_by_side``: whether runs are begun before others end."""

    def __init__(
        self, request: RunRequest, folder: Path, events: EventStream, command: str, workers: Workers, side_by_side: bool = False
    ) -> None:
        self.request, self.folder, self.events, self.command, self.workers = request, folder, events, command, workers
        self._told = Mingled(events) if side_by_side and not workers.alone else None

    def run(self, name: str, budget: Budget) -> Steps[Result]:
        """One run, new or continued."""
        path = self.folder / name
        like = next((other for other in sorted(self.folder.glob("*/measurements.jsonl")) if other.parent != path), None)
        events = self._told.of(name) if self._told is not None else self.events
        if self._told is None:
            self.events.note(f"== {name}")
        directory = RunDirectory(path)
        if like is not None:
            directory.adopt(like)
        again = how_to_continue(self.folder, self.request.recipe, self.command)
        return (yield from prune_in(directory, self.request.with_budget(budget), events, self.workers, again))

    def point(self, kind: str, level: str, budget: Budget) -> Steps[Point]:
        """One run's summary; a limit out of reach is a point without one."""
        name = f"{kind}-{level.replace('%', 'pct')}"
        known = _done(self.folder / name)
        if known is not None:
            return Point(level, self.folder / name, known)
        try:
            result = yield from self.run(name, with_limit(budget, kind, level))
            return Point(level, self.folder / name, result.figures)
        except InfeasibleBudgetError as error:
            self.events.note(f"{kind} {level}: {error}")
            return Point(level, self.folder / name, None, str(error))


def frontier(
    task: Task,
    target: str | None = None,
    *,
    profile: str | None = None,
    kind: str = "latency",
    levels: Sequence[str] = LEVELS,
    budget: Budget | None = None,
    options: Options | None = None,
    runs: str | Path = "runs",
    resume: str | Path | None = None,
    listener: Listener | Notes | None = None,
    recipe: str | None = None,
) -> Frontier:
    """Prune ``task.model`` to every one of ``levels`` of ``kind`` (a kind of limit; see :class:`Budget`), under the other limits of
    ``budget``, and mark the points of the Pareto front.

    Every level is a run of its own, tuned and measured; with several ``options.workers``, they train side by side. All runs share the
    device's table, the dense model's measurement and the sensitivities. ``frontier.json`` and ``frontier.html`` are written beside them
    after each run. ``resume``: the folder of an earlier call. Raises what :func:`edgeprune.prune` raises, except for limits out of reach.
    """
    budget, options = budget or Budget(), options or Options()
    facts = preflight(target, profile, budget, options, needs_budget=False)
    request = RunRequest(task, budget, target, profile, options, recipe, facts)
    with heard(listener) as events:
        return frontier_of(request, kind, levels, runs, resume, events)


def frontier_of(
    request: RunRequest, kind: str, levels: Sequence[str], runs: str | Path, resume: str | Path | None, events: EventStream
) -> Frontier:
    """:func:`frontier` for a request that has passed :func:`preflight`."""
    task, budget = request.task, request.budget
    check_levels(kind, levels, budget)
    if not task.scores:
        raise InputError(
            f"task {task.name} cannot be scored, and a frontier needs scores", remedy="Give the task `validation` or `evaluate`."
        )
    check_task(request, events)
    inputs = request.fingerprint | {"kind": kind, "levels": list(levels)}
    points: dict[str, Point] = {}

    def found() -> Frontier:
        return Frontier(kind, pareto([points[level] for level in levels if level in points], kind), folder)

    def reach(level: str) -> Steps[None]:
        points[level] = yield from sweep.point(kind, level, budget)
        write_frontier(found())

    with open_workers(request, events) as workers:
        folder = sweep_folder(Path(runs), f"{task.name}-frontier", inputs, resume)
        sweep = Sweep(request, folder, events, "frontier", workers, side_by_side=True)
        workers.run(workers.together([reach(level) for level in dict.fromkeys(levels)]))
    update_document(folder, state="done" if any(point.best for point in found().points) else "budget missed")
    return found()


def check_levels(kind: str, levels: Sequence[str], budget: Budget) -> None:
    """Refuse a sweep that makes no sense, before anything is done.  Raises :class:`InputError`, :class:`BudgetError`."""
    if kind not in FIGURES:
        raise InputError(f"unknown kind of limit {kind!r}", remedy=suggest(kind, FIGURES, "kinds"))
    if not levels:
        raise InputError("no levels were given", remedy=f"Give some, for example {','.join(LEVELS)}.")
    if getattr(budget, kind) is not None:
        raise InputError(f"{kind} is both limited to {getattr(budget, kind)} and swept", remedy="Remove that limit, or sweep another kind.")
    for level in levels:
        with_limit(budget, kind, level)


def with_limit(budget: Budget, kind: str, text: str) -> Budget:
    """``budget`` with one limit changed.  Raises :class:`BudgetError` for a malformed one."""
    changed: dict[str, Any] = {kind: text}
    return replace(budget, **changed)


@dataclass(frozen=True)
class Swept:
    """What a sweep was asked beside its job: the limit's ``kind``, and its ``levels``."""

    kind: str
    levels: list[str]


def swept(path: Path) -> Swept | None:
    """What the sweep at ``path`` was asked; None for a run that is not a sweep.  Raises :class:`RunError` when it is damaged."""
    inputs = read_inputs(path)
    if "levels" not in inputs:
        return None
    try:
        return convert(inputs, Swept)
    except ValueError as error:
        raise RunError(f"{path / 'run.json'} is damaged: {error}", remedy="Restore it, or start a new sweep.") from error


def sweep_folder(runs: Path, name: str, inputs: Fingerprint, resume: str | Path | None) -> Path:
    """A new folder that records its inputs, or the folder to continue.  Raises :class:`RunError` when that is of another job."""
    if resume is not None:
        refuse_another(Path(resume), read_inputs(Path(resume)), inputs)
        return Path(resume)
    directory = RunDirectory.create(runs, name)
    directory.update(inputs=inputs, state="running")
    directory.close()
    for empty in (directory.artifacts, directory.plans):
        empty.rmdir()
    return directory.path


def _done(path: Path) -> RunSummary | None:
    """The summary of a finished run."""
    try:
        return read_summary(path)
    except RunError:
        return None
