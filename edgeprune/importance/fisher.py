"""Diagonal of the Fisher matrix in the channels' gates (LeCun et al., "Optimal Brain Damage", 1990; Theis et al., "Faster gaze prediction
with dense networks and Fisher pruning", 2018)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgeprune.graph import Analysis
from edgeprune.importance.gates import CHUNK, gate_gradients
from edgeprune.importance.reduce import by_group
from edgeprune.importance.registry import Saliency, criterion
from edgeprune.task import Task


@criterion("fisher", comparable=True, needs_data=True)
def fisher(task: Task, analysis: Analysis) -> Saliency:
    """Half the expected squared derivative of the loss in the channel's gate: to second order, how far the answers move when it goes.

    For class scores with integer targets the targets are drawn from the model's own answers: that is the true Fisher matrix, the curvature
    of the divergence from the dense model, and it does not vanish on data that was learnt by heart (Kunstner et al., "Limitations of the
    Empirical Fisher Approximation", 2019). A piece's mean gradient then serves for all of its samples, as drawn ones are independent. For
    any other output the given targets are used: the empirical Fisher matrix. Batch norm takes the statistics of the piece, as they are
    measured again after every cut: a channel that only shifts a mean is worth nothing.
    """

    def loss_of(outputs: Any, targets: Any) -> Tensor:
        return task.loss_of(outputs, _drawn(outputs, targets), "in an evaluation")

    squares = [gradients**2 for gradients in gate_gradients(task, analysis, loss_of, own_statistics=True)]
    return by_group(analysis, CHUNK * np.mean(squares, 0) / 2)


def _drawn(outputs: Any, targets: Any) -> Any:
    """Targets drawn from the class scores (N, classes, ...) where there are integer ones (N, ...); else ``targets``."""
    if not (isinstance(outputs, Tensor) and isinstance(targets, Tensor) and not targets.is_floating_point()):
        return targets
    scores = outputs.detach().movedim(1, -1) if outputs.dim() >= 2 else outputs
    if outputs.dim() < 2 or scores.shape[:-1] != targets.shape:
        return targets
    drawn = torch.multinomial(scores.softmax(-1).reshape(-1, scores.shape[-1]).cpu(), 1)  # the same ones whatever the device
    return drawn.reshape(targets.shape).to(targets)
