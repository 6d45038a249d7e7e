"""Layer-adaptive magnitude (Lee et al., "Layer-adaptive Sparsity for the Magnitude-based Pruning", 2021), of channels."""

from __future__ import annotations

import numpy as np

from edgeprune.graph import Analysis
from edgeprune.importance.magnitude import squared_norms
from edgeprune.importance.registry import Saliency, criterion
from edgeprune.task import Task


@criterion("lamp", comparable=True)
def lamp(task: Task, analysis: Analysis) -> Saliency:
    """The channel's squared norm as a share of what would be left of its row once all smaller ones have gone (itself included): 0 to 1.

    Within a row it ranks as ``l2`` does; between groups it weighs what a removal distorts. The paper's score is of single weights in a
    layer; here channels stand for weights and a group's row for the layer.
    """
    squares, result = squared_norms(task, analysis), Saliency()
    for group in analysis.groups:
        values = squares[group.rows]
        order = np.argsort(-values, axis=1, kind="stable")
        largest_first = np.take_along_axis(values, order, 1)
        shares = largest_first / np.maximum(np.cumsum(largest_first, axis=1), 1e-300)
        result[group.name] = np.empty_like(values)
        np.put_along_axis(result[group.name], order, shares, 1)
    return result
