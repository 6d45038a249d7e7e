"""Several runs of one job at different limits: the accuracy-latency front."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgeprune.budget import FIGURES, Budget
from edgeprune.errors import InfeasibleBudgetError, InputError
from edgeprune.files import write_atomically
from edgeprune.report.frontier import write_frontier
from edgeprune.runs.directory import RunDirectory, read_inputs
from edgeprune.search.events import Listener, Silent
from edgeprune.search.fingerprint import inputs_of, refuse_another
from edgeprune.search.options import Options
from edgeprune.search.preflight import check
from edgeprune.search.run import STATES, Result, prune_in
from edgeprune.task import Task

LEVELS = ("80%", "65%", "50%", "40%", "30%")


@dataclass(frozen=True)
class Point:
    """``level``: the limit, as given. ``summary``: of its run (see :mod:`edgeprune.report.summary`), None where no plan reached the limit,
    and ``error`` says why. ``best``: whether it meets all limits and no other such point is both smaller in the limited figure and better
    in the metric."""

    level: str
    run: Path
    summary: dict[str, Any] | None
    error: str | None = None
    best: bool = False

    def figure(self, kind: str) -> float:
        """The limited figure of the pruned model."""
        return float(self.summary["pruned"][FIGURES[kind]]) if self.summary else math.inf

    @property
    def loss(self) -> float:
        """The pruned model's metric, less is better."""
        found = self.summary["pruned"]["metric"] if self.summary else None
        if self.summary is None or found is None:
            return math.inf
        return -float(found) if self.summary.get("higher_is_better", True) else float(found)

    @property
    def missed(self) -> list[str]:
        """The limits that its model does not meet, as judged by its run."""
        return [kind for kind, item in self.summary["budget"].items() if item["met"] is not True] if self.summary else []


@dataclass(frozen=True)
class Frontier:
    """The points of a sweep over ``kind``, in the order of its levels, kept in ``folder``."""

    kind: str
    points: list[Point]
    folder: Path


class Sweep:
    """Runs of ``task`` that differ in one limit, in folders of ``folder``, each resumable; what they have in common is done once.
    ``command``: the one that goes on with all of them."""

    def __init__(
        self,
        task: Task,
        target: str | None,
        profile: str | None,
        options: Options,
        folder: Path,
        listener: Listener,
        recipe: str | None,
        command: str,
    ) -> None:
        self.task, self.target, self.profile, self.options, self.command = task, target, profile, options, command
        self.folder, self.listener, self.recipe = folder, listener, recipe

    def run(self, name: str, budget: Budget) -> Result:
        """One run, new or gone on with."""
        path = self.folder / name
        like = next((other for other in sorted(self.folder.glob("*/measurements.jsonl")) if other.parent != path), None)
        self.listener.note(f"== {name}")
        directory = RunDirectory(path)
        if like is not None:
            directory.adopt(like)
        again = f"edgeprune {self.command} --resume {self.folder}"
        return prune_in(directory, self.task, self.target, self.profile, budget, self.options, self.listener, self.recipe, again)

    def point(self, kind: str, level: str, budget: Budget) -> Point:
        """One run's summary; a limit out of reach is a point without one."""
        name = f"{kind}-{level.replace('%', 'pct')}"
        known = _done(self.folder / name)
        if known is not None:
            return Point(level, self.folder / name, known)
        try:
            return Point(level, self.folder / name, self.run(name, with_limit(budget, kind, level)).summary)
        except InfeasibleBudgetError as error:
            self.listener.note(f"{kind} {level}: {error}")
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
    listener: Listener | None = None,
    recipe: str | None = None,
) -> Frontier:
    """Prune ``task.model`` to every one of ``levels`` of ``kind`` (a kind of limit; see :class:`Budget`), under the other limits of
    ``budget``, and mark the points of the Pareto front.

    The device's table, the dense model's measurement and the sensitivities are shared; every level is a run of its own, tuned and measured.
    Writes ``frontier.json`` and ``frontier.html`` beside them after each. ``resume``: the folder of an earlier call. Raises as
    :func:`edgeprune.prune` does, but for limits out of reach.
    """
    budget, listener = budget or Budget(), listener or Silent()
    if kind not in FIGURES:
        raise InputError(f"unknown kind of limit {kind!r}", remedy=f"Known kinds: {', '.join(FIGURES)}.")
    if not task.scores:
        raise InputError(f"task {task.name} cannot be scored, and a front needs scores", remedy="Give it `validation` or `evaluate`.")
    if not levels:
        raise InputError("no levels were given", remedy=f"Give some, for example {','.join(LEVELS)}.")
    if getattr(budget, kind) is not None:
        raise InputError(f"{kind} is limited to {getattr(budget, kind)} and swept", remedy="Leave out that limit, or sweep another kind.")
    for level in levels:
        with_limit(budget, kind, level)  # malformed ones are refused before anything is done
    options = options or Options()
    check(task, budget, options, listener)
    inputs = inputs_of(task, target, profile, budget, options, recipe, kind=kind, levels=list(levels))
    folder = sweep_folder(Path(runs), f"{task.name}-frontier", inputs, resume)
    sweep = Sweep(task, target, profile, options, folder, listener, recipe, "frontier")
    points: list[Point] = []
    for level in levels:
        points.append(sweep.point(kind, level, budget))
        found = Frontier(kind, pareto(points, kind), folder)
        write_frontier(folder, kind, [_plain(point) for point in found.points])
    sweep_ended(folder, state="done" if any(point.best for point in found.points) else "budget missed")
    return found


def with_limit(budget: Budget, kind: str, text: str) -> Budget:
    """``budget`` with one limit changed.  Raises :class:`BudgetError` for a malformed one."""
    changed: dict[str, Any] = {kind: text}
    return replace(budget, **changed)


def pareto(points: Sequence[Point], kind: str) -> list[Point]:
    """The points with ``best`` set: of those that meet their limits, the ones that no other beats in both figures."""
    good = [point for point in points if point.summary is not None and not point.missed]

    def beaten(point: Point) -> bool:
        mine = point.figure(kind), point.loss
        return any((their := (other.figure(kind), other.loss)) != mine and their <= mine and their[1] <= mine[1] for other in good)

    return [replace(point, best=point in good and not beaten(point)) for point in points]


def sweep_folder(runs: Path, name: str, inputs: dict[str, Any], resume: str | Path | None) -> Path:
    """A new folder that says what it is of, or the one to go on with.  Raises :class:`RunError` when that is of another job."""
    if resume is not None:
        refuse_another(Path(resume), read_inputs(Path(resume)), inputs)
        return Path(resume)
    directory = RunDirectory.create(runs, name)
    directory.update(inputs=inputs, state="running")
    directory.close()
    for empty in (directory.artifacts, directory.plans):
        empty.rmdir()
    return directory.path


def sweep_ended(folder: Path, **said: str) -> None:
    """Say in ``run.json`` what the sweep has come to: its ``state``, and which of its runs is the ``best``."""
    path = folder / "run.json"
    write_atomically(path, json.dumps(json.loads(path.read_text()) | said, indent=1))


def _done(path: Path) -> dict[str, Any] | None:
    """The summary of a finished run."""
    try:
        found = json.loads((path / "run.json").read_text())
    except (OSError, ValueError):
        return None
    return found.get("result") if found.get("state") in STATES.values() else None


def _plain(point: Point) -> dict[str, Any]:
    summary = point.summary
    return {
        "level": point.level,
        "run": str(point.run),
        "error": point.error,
        "best": point.best,
        "missed": point.missed,
        "budget": summary and summary["budget"],
        "dense": summary and summary["dense"],
        "pruned": summary and summary["pruned"],
        "metric_name": summary and summary["metric_name"],
        "higher_is_better": summary and summary.get("higher_is_better", True),
        "measured": summary and summary["measured"],
        "device_measurements": summary and summary["device_measurements"],
    }
