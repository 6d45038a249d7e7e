"""Batches that do not fit into the memory: their parts one after the other, with the gradient of the whole."""

from __future__ import annotations

import gc
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from edgeprune.batches import Batch
from edgeprune.errors import TrainingStoppedError
from edgeprune.graph.batch import holds
from edgeprune.task import Task

_SAME: Final = 0.01
"""How near to 1 or 2 the ratio of two losses must be to count as that."""


def out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that the memory is used up, a device's or the host's."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


@dataclass(frozen=True)
class Part:
    """The ``share`` of a batch that is computed at once.  ``times``: what its gradient counts more, where those of ranks are averaged."""

    batch: Batch
    share: float = 1.0
    times: int = 1


class Parts:
    """How batches are split for ``task`` on ``device``: among ``ranks``, of which this one is ``rank``, or, in one process, in ``count``
    parts, one until that turns out to be too much."""

    def __init__(self, task: Task, device: torch.device, rank: int = 0, ranks: int = 1) -> None:
        self.task, self.device, self.rank, self.ranks, self.count = task, device, rank, ranks, 1
        self._sums: bool | None = None
        self._told = False

    def of(self, batch: Batch) -> Iterator[Part]:
        """The parts of ``batch`` that this process computes.  A batch that cannot be divided among the ranks is computed by each."""
        samples = batch.samples if max(self.count, self.ranks) > 1 else None
        if samples is None or samples < self.ranks:
            if self.ranks > 1 and samples is None and not self._told:
                self._told = True
                warnings.warn(
                    f"the batches of {self.task.name} cannot be divided: every process computes all of them, which makes nothing faster",
                    stacklevel=2,
                )
            yield Part(batch)
        elif self.ranks > 1:
            start, end = (samples * place // self.ranks for place in (self.rank, self.rank + 1))
            yield Part(batch.sliced(start, end), (end - start) / samples, self.ranks)
        else:
            size = math.ceil(samples / self.count)
            for start in range(0, samples, size):
                part = min(size, samples - start)
                yield Part(batch.sliced(start, start + part), part / samples)

    def split(self, batch: Batch, error: BaseException) -> None:
        """Split further, after ``batch`` did not fit.  Raises :class:`TrainingStoppedError` where it cannot be."""
        samples = batch.samples
        if self.ranks > 1:
            raise TrainingStoppedError(
                f"training {self.task.name} does not fit into the memory of {self.device} (rank {self.rank} of {self.ranks})",
                remedy="Use smaller batches, more devices, or one device, where batches are split.",
            ) from error
        if samples is None or self.count >= samples:
            why = "cannot be split" if samples is None else f"was split into {self.count} parts of one sample"
            raise TrainingStoppedError(
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
            more, wanted = pytree.tree_map_only(
                Tensor, lambda value: torch.cat([value, value]) if holds(value, size) else value, (outputs, targets)
            )
            one = float(self.task.loss_of(outputs, targets, "for a part of a batch"))
            two = float(self.task.loss_of(more, wanted, "for a part of a batch, twice"))
        if one and abs(two / one - 2) < _SAME:
            return True
        if one and abs(two / one - 1) >= _SAME:
            warnings.warn(
                f"the loss of {self.task.name} is neither a mean nor a sum over samples: a split batch trains a little differently",
                stacklevel=2,
            )
        return False
