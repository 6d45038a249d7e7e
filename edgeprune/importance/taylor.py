"""First-order Taylor expansion of the loss in a channel's gate (Molchanov et al., "Importance Estimation for Neural Network Pruning",
2019)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from edgeprune.errors import InputError, TrainingError
from edgeprune.graph import Analysis
from edgeprune.graph.capture import eval_mode
from edgeprune.importance.reduce import by_group, per_channel
from edgeprune.importance.registry import Saliency, criterion
from edgeprune.task import Task, as_inputs

BATCHES, CHUNK = 24, 32


@criterion("taylor")
def taylor(task: Task, analysis: Analysis) -> Saliency:
    """Mean over small batches of the squared change of the loss when the channel's readers no longer see it.

    The gate of a channel stands where its readers (the columns of the next layers' weights) take it in, so its gradient is the sum of
    weight x gradient over those columns, whatever lies between. Needs ``task.train`` and ``task.loss``.
    """
    if task.train is None:
        raise InputError("criterion taylor needs training data (task.train)", remedy="Use l2, or give the task data.")
    model, total, count = task.model, np.zeros(len(analysis.roots)), 0
    wanted = list(model.parameters())
    flags = [parameter.requires_grad for parameter in wanted]
    try:
        for parameter in wanted:
            parameter.requires_grad_(True)
        with eval_mode(model):
            for inputs, targets in _chunks(task):
                loss = task.loss(model(*inputs), targets)
                if not bool(torch.isfinite(loss)):
                    raise TrainingError(f"the loss of the dense model is {loss.item()}", remedy="Check the data and the model's weights.")
                gradients = dict(zip(wanted, torch.autograd.grad(loss, wanted, allow_unused=True), strict=True))
                total += per_channel(analysis, model, _Products(gradients), lambda begins: not begins) ** 2
                count += 1
    finally:
        for parameter, flag in zip(wanted, flags, strict=True):
            parameter.requires_grad_(flag)
    return by_group(analysis, total / max(count, 1))


class _Products:
    """Weight times gradient, for the parameters that have one."""

    def __init__(self, gradients: Mapping[nn.Parameter, Tensor | None]) -> None:
        self.gradients = gradients

    def __call__(self, parameter: nn.Parameter) -> Tensor | None:
        gradient = self.gradients.get(parameter)
        return None if gradient is None else parameter.detach() * gradient


def _chunks(task: Task) -> itertools.islice[tuple[tuple[Tensor, ...], Tensor]]:
    """The training batches in pieces small enough that opposite signs do not cancel."""

    def pieces() -> object:
        assert task.train is not None
        for inputs, targets in task.train:
            values = as_inputs(inputs)
            for start in range(0, len(targets), CHUNK):
                yield tuple(value[start : start + CHUNK] for value in values), targets[start : start + CHUNK]

    return itertools.islice(pieces(), BATCHES)  # type: ignore[call-overload, no-any-return]
