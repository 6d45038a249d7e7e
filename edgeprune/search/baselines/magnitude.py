"""One threshold for all channels of the model."""

from __future__ import annotations

import numpy as np

from edgeprune.search.baselines.context import SearchContext, nearest, widest
from edgeprune.surgery import Plan


def global_magnitude(context: SearchContext, target_ms: float) -> Plan:
    """Rank all channels by the L2 norm of their weights relative to their group's mean; what is above one threshold stays.

    The threshold is as low as the predicted latency allows; widths are the nearest on the device's grid, at least its least. Source: the
    global ranking of Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient Inference", 2017, section 2.2, with
    magnitudes normalised by group. Raises :class:`InfeasibleBudgetError`.
    """
    saliency, choices = context.saliency("l2"), context.choices
    sorted_by_group = {name: np.sort(rows, axis=1).mean(0) for name, rows in saliency.items()}  # rows keep equally many
    ranked = np.sort(np.concatenate([*sorted_by_group.values()]))

    def widths_at(share: float) -> dict[str, int]:
        threshold = np.quantile(ranked, 1.0 - share)
        return {name: nearest(choices[name], int((values >= threshold).sum())) for name, values in sorted_by_group.items()}

    return context.plan("l2", widest(context, widths_at, target_ms, "global magnitude"))
