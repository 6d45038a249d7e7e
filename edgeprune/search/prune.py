"""``edgeprune.prune``: the main job, new or resumed."""

from __future__ import annotations

from pathlib import Path

from edgeprune.budget import FIGURES, Budget
from edgeprune.errors import BudgetError, TargetError
from edgeprune.profile import load as load_profile
from edgeprune.runs.directory import RunDirectory
from edgeprune.search.events import Listener, Silent
from edgeprune.search.fastest import fastest
from edgeprune.search.options import Options
from edgeprune.search.precision import check_precisions
from edgeprune.search.preflight import check
from edgeprune.search.run import Result, prune_in
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
    listener: Listener | None = None,
    recipe: str | None = None,
) -> Result:
    """Prune ``task.model`` to the most accurate model that meets ``budget`` on ``target``.

    ``target``: a name or address of a device (``local:``, ``ssh://user@host``), where candidates are measured; or, without a device,
    ``profile``: everything is then predicted from its prior and labelled so. With ``max_drop`` as the only limit it is the fastest model
    above that floor of the metric, found by a few whole runs. Everything is kept in a new directory in ``runs``; ``resume``
    goes on with an earlier one of the same job. The task's model is not changed.

    Raises :class:`InfeasibleBudgetError` when no plan reaches the budget, :class:`NothingToPruneError`, :class:`DeviceError`,
    :class:`TrainingError`, :class:`ExportError`; what was measured stays in the run directory.
    """
    options, listener = options or Options(), listener or Silent()
    if target is None and profile is None:
        raise TargetError("neither a target nor a profile was given", remedy="Give a device (target=...), or profile=... for a prediction.")
    if profile is not None:
        load_profile(profile)
    check(task, budget, options, listener)
    check_precisions(options.precision, target, options.engine)
    if not budget.limits():
        if budget.max_drop is None:
            raise BudgetError(
                "no budget was given", remedy=f"Give at least one of {', '.join(FIGURES)}, max_drop: for example latency 50%."
            )
        return fastest(task, target, profile, budget, options, runs, resume, listener, recipe)
    run = RunDirectory.reopen(Path(resume)) if resume is not None else RunDirectory.create(Path(runs), task.name)
    return prune_in(run, task, target, profile, budget, options, listener, recipe)
