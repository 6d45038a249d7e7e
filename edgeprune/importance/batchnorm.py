"""Batch-norm scale (Liu et al., "Network Slimming", 2017)."""

from __future__ import annotations

from torch import Tensor, nn

from edgeprune.errors import InputError
from edgeprune.graph import Analysis
from edgeprune.importance.reduce import by_group, per_channel
from edgeprune.importance.registry import Saliency, criterion
from edgeprune.task import Task


@criterion("bn-scale")
def bn_scale(task: Task, analysis: Analysis) -> Saliency:
    """Sum of absolute batch-norm scales; groups without batch norm count as uniform."""
    norms = [module for module in task.model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    scales = {id(module.weight) for module in norms if module.weight is not None}
    if not scales:
        raise InputError("criterion bn-scale needs batch-norm layers with scales, and the model has none", remedy="Use l2 or taylor.")

    def value(parameter: nn.Parameter) -> Tensor | None:
        return parameter.detach().abs() if id(parameter) in scales else None

    saliency = by_group(analysis, per_channel(analysis, task.model, value, lambda begins: begins))
    return {name: values if values.any() else values + 1 for name, values in saliency.items()}
