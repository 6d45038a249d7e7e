"""From a model's outputs to a metric: what the task does with outputs first, and whose fault it is where that fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from edgeprune.batches import Batch
from edgeprune.errors import EdgepruneError, TrainingStoppedError
from edgeprune.task import Task
from edgeprune.tuning.metrics import Accumulator


def gather(task: Task, gathered: Accumulator, outputs: Any, batch: Batch, before: int) -> None:
    """Give a batch's ``outputs`` to the metric, through ``task.postprocess``.  ``before``: the samples that came before.

    Raises :class:`TrainingStoppedError`, naming the sample, where one of the two raises.
    """
    answers = outputs
    if task.postprocess is not None:
        try:
            answers = task.postprocess(outputs)
        except EdgepruneError:
            raise
        except Exception as error:
            sample = _first(lambda part, _: task.postprocess(part), outputs, batch, before)  # type: ignore[misc]
            raise TrainingStoppedError(
                f"postprocess of task {task.name} raised {type(error).__name__} on {sample}: {error}",
                remedy="It takes the model's outputs on a batch, and those of exported files.",
            ) from error
    try:
        gathered.add(answers, batch)
    except EdgepruneError:
        raise
    except Exception as error:
        sample = _first(lambda part, target: _alone(task, part, target), answers, batch, before)
        raise TrainingStoppedError(
            f"the {task.metric_name} of task {task.name} raised {type(error).__name__} on {sample}: {error}",
            remedy="Check that task.metric takes the model's outputs"
            + (", as task.postprocess returns them." if task.postprocess is not None else "; task.postprocess can change them."),
        ) from error


def _alone(task: Task, part: Any, target: Any) -> None:
    update = getattr(task.metric, "update", None)
    (update if callable(update) else task.metric)(part, target)


def _first(function: Callable[[Any, Any], Any], outputs: Any, batch: Batch, before: int) -> str:
    """The first sample on which ``function`` of its outputs and targets raises, in words; the batch where no single one does."""
    size = batch.size
    for place in range(size):
        try:
            function(_one(outputs, place, size), _one(batch.targets, place, size))
        except Exception:
            return f"validation sample {before + place}"
    return f"validation samples {before} to {before + size - 1}"


def _one(values: Any, place: int, size: int) -> Any:
    """The part of a sample: of lists with an entry a sample, and of tensors."""
    if isinstance(values, list) and len(values) == size:
        return values[place : place + 1]
    return pytree.tree_map_only(Tensor, lambda value: value[place : place + 1] if value.dim() and len(value) == size else value, values)
