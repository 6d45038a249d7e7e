"""Losses of training steps, read now and then: on an accelerator every reading waits for all that was asked of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from edgeprune.errors import TrainingError

READ_EVERY: Final = 16
"""Steps between two readings on an accelerator; on the CPU every step is read."""


@dataclass
class Losses:
    """The losses and gradient norms of the steps of ``name``, ``total`` steps in all, read ``every`` so many.  ``skips``: a step whose
    gradients overflow is left out, which is no error. ``mean``: over all ranks."""

    name: str
    total: int
    every: int
    skips: bool = False
    mean: Callable[[Tensor], Tensor] = lambda values: values
    last: float = math.nan
    _read: list[float] = field(default_factory=list)
    _pending: list[tuple[int, int, float, Tensor, Tensor]] = field(default_factory=list)

    def add(self, step: int, epoch: int, rate: float, loss: Tensor, norm: Tensor) -> None:
        """A step's loss and the norm of its gradient, as they are on the device.  Raises what :meth:`read` raises."""
        self._pending.append((step, epoch, rate, loss.detach(), norm.detach()))
        if len(self._pending) >= self.every:
            self.read()

    def read(self) -> None:
        """Read all that is there.  Raises :class:`TrainingError`, naming the step, for a value that is not finite."""
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        found = torch.stack([torch.stack([loss.float().reshape(()), norm.float().reshape(())]) for *_, loss, norm in pending])
        values = self.mean(found).cpu().tolist()
        for (step, epoch, rate, _, _), (loss, norm) in zip(pending, values, strict=True):
            for what, number in (("loss", loss), ("gradient", norm)):
                if not math.isfinite(number) and not (self.skips and what == "gradient"):
                    where = f"step {step + 1} of {self.total} (epoch {epoch + 1}, learning rate {rate:.3g})"
                    raise TrainingError(
                        f"the {what} of {self.name} became {number} at {where}",
                        remedy="Lower the task's learning_rate, or look for such values in the training data and the loss.",
                    )
            self._read.append(loss)
        self.last = self._read[-1]

    def taken(self) -> list[float]:
        """All losses since the last call, in order.  Raises what :meth:`read` raises."""
        self.read()
        found, self._read = self._read, []
        return found
