"""What cannot succeed is refused before anything is loaded, measured or trained."""

from __future__ import annotations

import re
from typing import Literal

import numpy as np

from edgeprune.budget import FIGURES, Budget
from edgeprune.engines import CPU
from edgeprune.errors import BudgetError, CaptureError, InputError, RecipeError, TargetError, VerificationError
from edgeprune.export.formats import find as find_format
from edgeprune.graph import Analysis
from edgeprune.importance.registry import find as find_criterion
from edgeprune.importance.registry import known as known_criterion
from edgeprune.placement import resolve
from edgeprune.profile import Profile
from edgeprune.profile import load as load_profile
from edgeprune.search.events import EventStream
from edgeprune.search.measure.opening import check_backend
from edgeprune.search.measure.pool import check_pool
from edgeprune.search.options import OF_TRAINING, Options
from edgeprune.search.precision import check_precisions
from edgeprune.search.request import RunRequest
from edgeprune.search.selection import candidates_of
from edgeprune.surgery import apply, plan_from_saliency
from edgeprune.task import Task
from edgeprune.tuning import initialized
from edgeprune.tuning.context import seeded
from edgeprune.tuning.frozen import refuse_frozen
from edgeprune.tuning.optimizer import check_settings

_ERRORS = re.compile(r"(?<![a-z])(loss|error|err|mse|mae|rmse|perplexity|wer|cer|eer)(?![a-z])", re.IGNORECASE)
"""Names of metrics of which less is better, as a rule."""


def preflight(target: str | None, profile: str | None, budget: Budget, options: Options, needs_budget: bool = True) -> Profile | None:
    """Refuse what is wrong whatever the task: no recipe is loaded, nothing connected to or written.  ``needs_budget``: one limit at least.

    Returns the profile of that name, for :attr:`RunRequest.facts`.

    Raises :class:`TargetError`, :class:`ProfileError`, :class:`ExportError` and :class:`InputError` for unknown names,
    :class:`BudgetError` for a missing or an impossible budget.
    """
    if target is None and profile is None:
        raise TargetError("neither a target nor a profile was given", remedy="Give a device (target=...), or profile=... for a prediction.")
    facts = load_profile(profile) if profile is not None else None
    if target is not None:
        check_pool(target)
    if options.device is not None:
        resolve(options.device)
    for name in options.formats:
        find_format(name)
    if options.criterion is not None:
        known_criterion(options.criterion)
    check_precisions(options.precision, target, options.engine)
    if target is None and options.accelerator not in (None, CPU):
        raise TargetError(
            f"profiles say nothing of {options.accelerator}: they predict for the processor",
            remedy="Give a --target to measure on, or leave --accelerator out.",
        )
    check_backend(target, facts, options.engine, budget)
    if needs_budget and not budget.limits() and budget.max_drop is None:
        raise BudgetError("no budget was given", remedy=f"Give at least one of {', '.join(FIGURES)}, max_drop: for example latency 50%.")
    return facts


def check_task(request: RunRequest, events: EventStream) -> None:
    """Refuse options that the task cannot follow; note those that have no effect on it.

    Raises :class:`BudgetError` for a floor without a score, :class:`InputError` for a device that is not there, :class:`InputError` and
    :class:`RecipeError` for ways of training that lack what they need and batches that are not pairs, :class:`TrainingError` for a model
    that cannot start again.
    """
    task, budget, options = request.task, request.budget, request.options
    if budget.max_drop is not None and not task.scores:
        raise BudgetError(f"max_drop needs a score, and task {task.name} has none", remedy="Give the task `validation` or `evaluate`.")
    resolve(options.applied(task).device)
    if options.criterion is not None:
        find_criterion(options.criterion, task)
    _check_training(task, options)
    _check_batches(task, "train")
    _check_batches(task, "validation")
    given = [name for name in ("epochs", *OF_TRAINING) if getattr(options, name) is not None]
    if task.fit is not None and given:
        events.note(f"task {task.name} is trained by its own fit: the options {', '.join(given)} have no effect")
    if task.fit is None and task.train is None:
        given = [name for name in given if getattr(options, name)]  # none is what there will be
        given += ["schedule"] * (options.schedule == "iterative")
        if given:
            events.note(f"task {task.name} has no training data: the options {', '.join(given)} have no effect")
    if options.race and (idle := _why_no_race(task, options)):
        events.note(f"the race has no effect: {idle}")
    if task.scores and task.higher_is_better and (found := _ERRORS.search(task.metric_name)):
        events.note(f"a higher {task.metric_name!r} counts as better: if this metric is an error ({found[0]}), set higher_is_better=False")


def _why_no_race(task: Task, options: Options) -> str:
    """What keeps plans from being raced; "" where nothing does."""
    if task.train is None:
        return f"task {task.name} has no training data"
    if task.fit is not None:
        return f"task {task.name} is trained by its own fit"
    if not options.epochs_of(task):
        return "epochs are 0"
    names = candidates_of(options, task)
    return f"{names[0]} is the only objective" if len(names) == 1 else ""


def _check_training(task: Task, options: Options) -> None:
    if task.fit is None:
        check_settings(options.applied(task))
    epochs = options.epochs_of(task)
    if options.schedule == "online":
        if task.train is None:
            raise RecipeError(
                f"task {task.name} has no training data, and online pruning needs training", remedy="Give the task `train` batches."
            )
        if task.fit is not None:
            raise InputError(
                f"fit of task {task.name} replaces the built-in training, and online pruning is part of that training",
                remedy="Remove fit from the task, or choose another schedule.",
            )
        if epochs == 0:
            raise InputError("online pruning needs training, and epochs are 0", remedy="Set more epochs, or choose another schedule.")
    if options.training == "scratch":
        if task.fit is None and (task.train is None or epochs == 0):
            lacking = "epochs are 0" if task.train is not None else f"task {task.name} has no training data"
            raise InputError(
                f"training from scratch needs training, and {lacking}", remedy="Give the task training data and more epochs, or fine-tune."
            )
        refuse_frozen(task.model, task.name)
        initialized(task.model)


def _check_batches(task: Task, name: Literal["train", "validation"]) -> None:
    """Read the first batch, and count those of data that has no length."""
    if getattr(task, name) is None:
        return
    with seeded(0):
        next(task.batches(name), None)
        if name == "train" and task.fit is None:
            task.epoch_length()


def check_graph(task: Task, analysis: Analysis) -> None:
    """Refuse a model that can only be cut in its graph where that does not take the task's batches, or has no loss of its own; where the
    modules can be cut, no blocks go whole.  Raises :class:`CaptureError`."""
    lacking, remedy = _graph_lacks(task, analysis)
    if not lacking:
        return
    analysis.droppable = False
    nothing = {group.name: np.zeros(group.rows.shape) for group in analysis.groups}
    plan = plan_from_saliency(analysis, nothing, {group.name: max(1, group.size // 2) for group in analysis.groups})
    try:
        apply(task.model, analysis, plan, "modules")
    except VerificationError as error:
        raise CaptureError(f"{task.name} can only be pruned in its captured graph, which {lacking}. {error}", remedy=remedy) from error


def _graph_lacks(task: Task, analysis: Analysis) -> tuple[str, str]:
    """What the captured graph does not do that the task needs, and the remedy; empty where it does all."""
    parts: tuple[Literal["train", "validation"], ...] = ("train", "validation")
    for name in parts:
        if getattr(task, name) is None or (name == "train" and task.fit is not None):
            continue
        with seeded(0):
            first = next(task.batches(name), None)
        misfit = analysis.captured.misfit(first.leaves) if first is not None else ""
        if misfit:
            remedy = "Give example inputs of the shapes of the data; or let the model's code take sizes from its inputs (x.shape)."
            return f"does not take the {name} data: {misfit}", remedy
    if task.loss == "model" and task.fit is None and task.train is not None:
        return "does not compute the loss", 'Give the task a loss(outputs, targets) in place of "model".'
    if task.distil_features and task.fit is None and task.train is not None and task.distillation:
        return "has no modules that features are taken from", "Give the task no distil_features."
    return "", ""
