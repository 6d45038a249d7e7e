"""Training batches, in pieces that criteria work on."""

from __future__ import annotations

from collections.abc import Iterator

from edgeprune.batches import Batch
from edgeprune.errors import InputError
from edgeprune.graph import Analysis
from edgeprune.graph.batch import batch_of
from edgeprune.placement import device_of
from edgeprune.task import Task

SAMPLES = 768
"""How many samples criteria look at."""


def pieces(task: Task, size: int, samples: int = SAMPLES) -> Iterator[Batch]:
    """The training batches in pieces of at most ``size`` samples, where the task's model is, until there were ``samples``.

    A batch whose inputs and targets are not all tensors of one first dimension is a piece by itself. Raises :class:`InputError` when
    there is no batch.
    """
    assert task.train is not None
    left, device = samples, device_of(task.model)
    for batch in task.batches("train"):
        held = batch.samples
        for start in range(0, held or 1, size):
            yield (batch if held is None else batch.sliced(start, start + size)).to(device)
            left -= min(size, (held or size) - start)
            if left <= 0:
                return
    if left == samples:
        raise InputError(f"the training data of task {task.name} has no batches", remedy="Give batches that can be iterated again.")


def captured_size(analysis: Analysis) -> int | None:
    """How many samples at a time the captured graph takes; None where it takes any number."""
    return None if analysis.captured.any_batch else example_size(analysis)


def example_size(analysis: Analysis) -> int:
    """How many samples the graph was captured with."""
    return batch_of(analysis.captured.inputs)
