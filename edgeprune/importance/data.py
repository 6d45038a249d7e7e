"""Training batches, in pieces that criteria work on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from edgeprune.errors import InputError
from edgeprune.graph import Analysis
from edgeprune.graph.batch import batch_of
from edgeprune.task import Task, as_inputs

SAMPLES = 768
"""How many samples criteria look at."""


def pieces(task: Task, size: int, samples: int = SAMPLES) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """The training batches in pieces (inputs, targets) of at most ``size`` samples, until there were ``samples``.

    A batch whose inputs and targets are not all tensors of one first dimension is a piece by itself. Raises :class:`InputError` when
    there is no batch.
    """
    assert task.train is not None
    left = samples
    for inputs, targets in task.batches("train"):
        values = as_inputs(inputs)
        held = samples_of(values, targets)
        for start in range(0, held or 1, size):
            if held is None:
                yield values, targets
            else:
                yield pytree.tree_map_only(Tensor, _Slice(start, start + size), (values, targets))
            left -= min(size, (held or size) - start)
            if left <= 0:
                return
    if left == samples:
        raise InputError(f"the training data of task {task.name} has no batches", remedy="Give batches that can be iterated again.")


@dataclass(frozen=True)
class _Slice:
    """Samples from ``start`` on, up to ``end``."""

    start: int
    end: int

    def __call__(self, value: Tensor) -> Tensor:
        return value[self.start : self.end]


def captured_size(analysis: Analysis) -> int | None:
    """How many samples at a time the captured graph takes; None where it takes any number."""
    return None if analysis.captured.any_batch else example_size(analysis)


def example_size(analysis: Analysis) -> int:
    """How many samples the graph was captured with."""
    return batch_of(analysis.captured.inputs)


def samples_of(values: tuple[Any, ...], targets: Any) -> int | None:
    """How many samples inputs and targets hold: the first dimension that all of their tensors share; None where they do not."""
    if isinstance(targets, list):  # of one entry a sample
        return None
    leaves = pytree.tree_leaves((values, targets))
    sizes = {value.shape[0] if isinstance(value, Tensor) and value.dim() else None for value in leaves}
    return sizes.pop() if len(sizes) == 1 else None
