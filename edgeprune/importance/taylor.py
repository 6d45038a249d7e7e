"""First-order Taylor expansion of the loss in a channel's gate (Molchanov et al., "Importance Estimation for Neural Network Pruning",
2019)."""

from __future__ import annotations

import numpy as np

from edgeprune.graph import Analysis
from edgeprune.importance.gates import gate_gradients
from edgeprune.importance.reduce import by_group
from edgeprune.importance.registry import Saliency, criterion
from edgeprune.task import Task


@criterion("taylor", comparable=True, needs_data=True)
def taylor(task: Task, analysis: Analysis) -> Saliency:
    """Mean over small pieces of the squared change of ``task.loss``, to first order, when the channel's readers no longer see it.

    Batch norm keeps the statistics it has: what measuring them again makes up for counts as lost.
    """
    squares = [
        gradients**2
        for gradients in gate_gradients(task, analysis, lambda outputs, targets: task.loss_of(outputs, targets, "in an evaluation"))
    ]
    return by_group(analysis, np.mean(squares, 0))
