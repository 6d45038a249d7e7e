"""What cannot come to a good end, refused before anything is measured or trained."""

from __future__ import annotations

import re

from edgeprune.budget import Budget
from edgeprune.errors import BudgetError, InputError, RecipeError
from edgeprune.export.formats import find as find_format
from edgeprune.importance.registry import find as find_criterion
from edgeprune.search.events import Listener
from edgeprune.search.options import Options
from edgeprune.task import Task
from edgeprune.tuning import initialized
from edgeprune.tuning.context import seeded

_ERRORS = re.compile(r"(?<![a-z])(loss|error|err|mse|mae|rmse|perplexity|wer|cer|eer)(?![a-z])", re.IGNORECASE)
"""Names of metrics of which less is better, as a rule."""


def check(task: Task, budget: Budget, options: Options, listener: Listener) -> None:
    """Refuse options that ``task`` cannot follow; note those that have no effect on it.

    Raises :class:`BudgetError` for a floor without a score, :class:`InputError` and :class:`RecipeError` for ways of training that lack
    what they need and batches that are no pairs, :class:`ExportError` for unknown formats, :class:`TrainingError` for a model that cannot
    start anew.
    """
    if budget.max_drop is not None and not task.scores:
        raise BudgetError(f"max_drop needs a score, and task {task.name} has none", remedy="Give it `validation` or `evaluate`.")
    if options.criterion is not None:
        find_criterion(options.criterion, task)
    for name in options.formats:
        find_format(name)
    _check_training(task, options)
    for name in ("train", "validation"):
        _check_batches(task, name)
    given = [name for name in ("epochs", "distillation", "weight_decay") if getattr(options, name) is not None]
    if task.fit is not None and given:
        listener.note(f"fit of task {task.name} trains: {', '.join(given)} of the options have no effect")
    if task.fit is None and task.train is None:
        given = [name for name in given if getattr(options, name)]  # none is what there will be
        given += ["schedule"] * (options.schedule == "iterative")
        if given:
            listener.note(f"task {task.name} has no training data: {', '.join(given)} of the options have no effect")
    if task.scores and task.higher_is_better and (found := _ERRORS.search(task.metric_name)):
        listener.note(
            f"more of the metric {task.metric_name!r} counts as better: if that is an error ({found[0]}), set higher_is_better=False"
        )


def _check_training(task: Task, options: Options) -> None:
    epochs = task.epochs if options.epochs is None else options.epochs
    if options.schedule == "online":
        if task.train is None:
            raise RecipeError(f"task {task.name} has no training data, and online pruning trains", remedy="Give it `train` batches.")
        if task.fit is not None:
            raise InputError(
                f"fit of task {task.name} replaces the built-in training, and online pruning is a part of that",
                remedy="Leave fit out of the task, or take another schedule.",
            )
        if epochs == 0:
            raise InputError("online pruning trains, and epochs are 0", remedy="Give some, or take another schedule.")
    if options.training == "scratch":
        if task.fit is None and (task.train is None or epochs == 0):
            lacking = "epochs are 0" if task.train is not None else f"task {task.name} has no training data"
            raise InputError(f"training from scratch needs training, and {lacking}", remedy="Give some, or fine-tune.")
        initialized(task.model)


def _check_batches(task: Task, name: str) -> None:
    batches = getattr(task, name)
    with seeded(0):
        first = next(iter(batches), None) if batches is not None else None
    if first is not None and not (isinstance(first, (tuple, list)) and len(first) == 2):
        held = f"a {type(first).__name__}" + (f" of {len(first)}" if isinstance(first, (tuple, list)) else "")
        raise RecipeError(
            f"a batch of the {name} data of task {task.name} is {held}, not (inputs, targets)",
            remedy="Several inputs go into a tuple: ((first, second), targets).",
        )
