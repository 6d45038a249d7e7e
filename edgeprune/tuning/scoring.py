"""How good a model is, in the task's own metric."""

from __future__ import annotations

import math

import torch
from torch import nn

from edgeprune.errors import EdgepruneError, RecipeError, TrainingError
from edgeprune.task import Task
from edgeprune.tuning.context import preserved_modes, seeded
from edgeprune.tuning.layout import laid_out


def score(model: nn.Module, task: Task) -> float:
    """The task's metric of ``model``: ``task.evaluate``, or ``task.metric`` over the validation batches weighted by their size.

    Runs in evaluation mode, without gradients, in float32; training flags are restored. Raises :class:`RecipeError` when the task
    cannot score or has no validation batch, :class:`TrainingError` when scoring fails or the result is not a finite number.
    """
    with seeded(0), preserved_modes(model), torch.no_grad():
        model.eval()
        try:
            value = float(task.evaluate(model)) if task.evaluate is not None else _over_validation(model, task)
        except EdgepruneError:
            raise
        except Exception as error:
            raise TrainingError(
                f"scoring {task.name} raised {type(error).__name__}: {error}",
                remedy="Check that the validation batches fit the model, and that task.metric takes its outputs.",
            ) from error
    if not math.isfinite(value):
        raise TrainingError(
            f"the {task.metric_name} of {task.name} is {value}, not a number",
            remedy="Check the model's outputs on the validation data for NaN or infinite values.",
        )
    return value


def _over_validation(model: nn.Module, task: Task) -> float:
    if task.validation is None:
        raise RecipeError(f"task {task.name} cannot be scored", remedy="Give it `validation` batches, or `evaluate(model) -> float`.")
    total, count = 0.0, 0
    for batch in task.batches("validation"):
        total += batch.size * float(task.metric(laid_out(model, batch).call(model), batch.targets))
        count += batch.size
    if count == 0:
        raise RecipeError(f"the validation data of task {task.name} has no batches", remedy="Give batches that can be iterated again.")
    return total / count
