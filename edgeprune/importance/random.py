"""The control: no criterion at all."""

from __future__ import annotations

import numpy as np

from edgeprune.graph import Analysis
from edgeprune.importance.registry import Saliency, criterion
from edgeprune.task import Task


@criterion("random")
def random(task: Task, analysis: Analysis) -> Saliency:
    """Uniform random numbers, the same in every run."""
    generator = np.random.default_rng(0)
    return {group.name: generator.random(group.rows.shape) for group in analysis.groups}
