"""Batches that do not fit into the memory: their parts one after the other, with the gradient of the whole."""

from __future__ import annotations

import gc
import math
import warnings
from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from edgeprune.batches import Batch
from edgeprune.errors import TrainingError
from edgeprune.graph.batch import holds
from edgeprune.task import Task

_SAME: Final = 0.01
"""How near to 1 or 2 the ratio of two losses must be to count as that."""


def out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that the memory is used up, a device's or the host's."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


class Parts:
    """How batches are split for ``task`` on ``device``; ``count`` parts, one until that turns out to be too much."""

    def __init__(self, task: Task, device: torch.device) -> None:
        self.task, self.device, self.count = task, device, 1
        self._sums: bool | None = None

    def of(self, batch: Batch) -> Iterator[tuple[Batch, float]]:
        """The parts of ``batch``, each with the share of the batch that it is."""
        samples = batch.samples if self.count > 1 else None
        if samples is None:
            yield batch, 1.0
            return
        size = math.ceil(samples / self.count)
        for start in range(0, samples, size):
            part = min(size, samples - start)
            yield batch.sliced(start, start + part), part / samples

    def split(self, batch: Batch, error: BaseException) -> None:
        """Split further, after ``batch`` did not fit.  Raises :class:`TrainingError` where it cannot be."""
        samples = batch.samples
        if samples is None or self.count >= samples:
            why = "cannot be split" if samples is None else f"was split into {self.count} parts of one sample"
            raise TrainingError(
                f"training {self.task.name} does not fit into the memory of {self.device}: its batch {why}",
                remedy="Use smaller batches or inputs, a device with more memory, or --device cpu.",
            ) from error
        first = self.count == 1
        self.count = min(2 * self.count, samples)
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if first:
            warnings.warn(
                f"a batch of {self.task.name} does not fit into the memory of {self.device}: it is split, and the gradients of its parts "
                "are added; batch norms see parts, not the whole batch",
                stacklevel=2,
            )

    def weight(self, share: float, outputs: Any, targets: Any) -> float:
        """What the loss of a part that is ``share`` of its batch counts in the loss of the batch: ``share`` for a mean over samples, 1 for
        a sum, which is told apart by a part taken twice."""
        if share == 1.0:
            return 1.0
        if self._sums is None:
            self._sums = self._is_sum(outputs, targets)
        return 1.0 if self._sums else share

    def _is_sum(self, outputs: Any, targets: Any) -> bool:
        if isinstance(self.task.loss, str):
            return False  # the model's own: a mean, as all libraries have it
        size = next((len(value) for value in pytree.tree_leaves(outputs) if isinstance(value, Tensor) and value.dim()), 0)
        with torch.no_grad():
            twice = [
                pytree.tree_map_only(Tensor, lambda value: torch.cat([value, value]) if holds(value, size) else value, given)
                for given in (outputs, targets)
            ]
            one = float(self.task.loss_of(outputs, targets, "for a part of a batch"))
            two = float(self.task.loss_of(*twice, "for a part of a batch, twice"))
        if one and abs(two / one - 2) < _SAME:
            return True
        if one and abs(two / one - 1) >= _SAME:
            warnings.warn(
                f"the loss of {self.task.name} is neither a mean nor a sum over samples: a split batch trains a little differently",
                stacklevel=2,
            )
        return False
