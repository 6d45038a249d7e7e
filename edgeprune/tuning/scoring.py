"""How good a model is, in the task's own metric."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import nn

from edgeprune.errors import EdgepruneError, RecipeError, TrainingStoppedError
from edgeprune.placement import to_cpu
from edgeprune.task import Task
from edgeprune.tuning.answers import gather
from edgeprune.tuning.context import preserved_modes, seeded
from edgeprune.tuning.layout import laid_out
from edgeprune.tuning.metrics import Score, accumulator, require_finite


def score(model: nn.Module, task: Task) -> float:
    """The task's metric of ``model``: ``task.evaluate``, or ``task.metric`` over the validation batches: a function weighted by their
    size, or an object with ``update``, ``compute`` and ``reset``.

    Runs on the task's device in evaluation mode, without gradients, in float32; the metric gets outputs on the CPU, and ``task.evaluate``
    the model where it is. Training flags are restored. Raises :class:`RecipeError` when the task
    cannot score or has no validation batch, :class:`TrainingError` when scoring fails or the result is not a finite number.
    """
    return _score(model, task, errors=False).value


def score_with_error(model: nn.Module, task: Task) -> Score:
    """:func:`score` with the standard error over validation samples; it has none where ``task.evaluate`` scores."""
    return _score(model, task, errors=True)


def _score(model: nn.Module, task: Task, errors: bool) -> Score:
    place = task.on_device(model) if task.evaluate is None else nullcontext()
    with seeded(0), place, preserved_modes(model), torch.no_grad():
        model.eval()
        try:
            found = Score(float(task.evaluate(model))) if task.evaluate is not None else _over_validation(model, task, errors)
        except EdgepruneError:
            raise
        except Exception as error:
            raise TrainingStoppedError(
                f"scoring {task.name} raised {type(error).__name__}: {error}",
                remedy="Check that the validation batches fit the model, and that task.metric takes its outputs.",
            ) from error
    require_finite(task, found.value)
    return found


def _over_validation(model: nn.Module, task: Task, errors: bool) -> Score:
    if task.validation is None:
        raise RecipeError(f"task {task.name} cannot be scored", remedy="Give it `validation` batches, or `evaluate(model) -> float`.")
    gathered, count = accumulator(task, errors), 0
    for batch in task.batches("validation"):
        gather(task, gathered, to_cpu(laid_out(model, batch).call(model)), batch, count)
        count += batch.size
    if count == 0:
        raise RecipeError(f"the validation data of task {task.name} has no batches", remedy="Give batches that can be iterated again.")
    return gathered.score()
