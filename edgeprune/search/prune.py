"""``edgeprune.prune``: the main job, new or resumed."""

from __future__ import annotations

from pathlib import Path

from edgeprune.budget import Budget
from edgeprune.runs.directory import RunDirectory
from edgeprune.search.events import EventStream, Listener, Notes, heard
from edgeprune.search.fastest import fastest
from edgeprune.search.options import Options
from edgeprune.search.preflight import check_task, preflight
from edgeprune.search.request import RunRequest
from edgeprune.search.run import Result, prune_in
from edgeprune.search.workers import open_workers
from edgeprune.task import Task


def prune(
    task: Task,
    target: str | None = None,
    *,
    profile: str | None = None,
    budget: Budget,
    options: Options | None = None,
    runs: str | Path = "runs",
    resume: str | Path | None = None,
    listener: Listener | Notes | None = None,
    recipe: str | None = None,
) -> Result:
    """Prune ``task.model`` to the most accurate model that meets ``budget`` on ``target``.

    ``target``: the name or address of a device (``local:``, ``ssh://user@host``), where candidates are measured. ``profile``: a device
    profile; without a target, everything is predicted from it and labelled so. With ``max_drop`` as the only limit, a few whole runs
    search for the fastest model within that drop. Everything is kept in a new directory in ``runs``; ``resume`` continues an earlier run
    of the same job. The task's model is not changed.

    ``listener``: gets every event of the run (:mod:`edgeprune.runs.events`), or is an object with ``note(text)`` and
    ``progress(stage, done, total)``; without one, progress is shown on a terminal and in notebooks.

    Raises :class:`InfeasibleBudgetError` when no plan reaches the budget, :class:`NothingToPruneError`, :class:`DeviceError`,
    :class:`TrainingError`, :class:`ExportError`; what was measured stays in the run directory.
    """
    options = options or Options()
    facts = preflight(target, profile, budget, options)
    request = RunRequest(task, budget, target, profile, options, recipe, facts)
    with heard(listener) as events:
        return prune_request(request, runs, resume, events)


def prune_request(request: RunRequest, runs: str | Path, resume: str | Path | None, events: EventStream) -> Result:
    """:func:`prune` for a request that has passed :func:`preflight`."""
    check_task(request, events)
    with open_workers(request, events) as workers:
        if not request.budget.limits():
            return workers.run(fastest(request, runs, resume, events, workers))
        run = RunDirectory.reopen(Path(resume)) if resume is not None else RunDirectory.create(Path(runs), request.task.name)
        return workers.run(prune_in(run, request, events, workers))
