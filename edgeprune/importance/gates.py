"""Derivatives of a loss in the channels' gates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgeprune.batches import Batch
from edgeprune.errors import TrainingError
from edgeprune.graph import Analysis
from edgeprune.graph.capture import eval_mode
from edgeprune.graph.training import training_structure
from edgeprune.importance.data import pieces
from edgeprune.importance.reduce import owned, per_channel
from edgeprune.task import Task

CHUNK = 8
"""Samples a piece: so few that opposite signs hardly cancel."""


def gate_gradients(
    task: Task, analysis: Analysis, loss_of: Callable[[Any, Any], Tensor], *, own_statistics: bool = False
) -> Iterator[np.ndarray]:
    """For every piece of ``CHUNK`` samples the derivative of ``loss_of(outputs, targets)`` in every channel's gate.

    The gate stands where the channel's readers (the columns of the next layers' weights) take it in, so the derivative is the sum
    of weight x gradient over those columns, whatever lies between. A channel that no weight reads (it meets another in a product, as those
    of queries and keys do) has its gate where it begins. In eval mode; with ``own_statistics`` batch norm takes those of the piece, so that
    what its statistics make up for once they are measured again does not count. The model is left as it was, gradients too. Raises
    :class:`TrainingError` when the loss is not a number.
    """
    model = task.model
    wanted = [parameter for parameter in model.parameters() if parameter.is_floating_point()]
    flags = [parameter.requires_grad for parameter in wanted]
    unread = _unread(analysis, model)
    try:
        for parameter in wanted:
            parameter.requires_grad_(True)
        found_pieces = pieces(task, CHUNK)
        first = next(found_pieces)
        mode = _mode_of_loss(model, analysis, loss_of, first)
        with mode(model), _own_statistics(model if own_statistics else None) as norms, torch.enable_grad():
            for piece in chain([first], found_pieces):
                for norm in norms:
                    norm.training = piece.samples != 1
                loss = loss_of(piece.call(model, loss=True), piece.targets)
                if not bool(torch.isfinite(loss)):
                    raise TrainingError(f"the loss of the dense model is {loss.item()}", remedy="Check the data and the model's weights.")
                products = _Products(dict(zip(wanted, torch.autograd.grad(loss, wanted, allow_unused=True), strict=True)))
                found = per_channel(analysis, model, products, lambda begins: not begins)
                if unread.any():
                    found[unread] = per_channel(analysis, model, products, lambda begins: begins)[unread]
                yield found
    finally:
        for parameter, flag in zip(wanted, flags, strict=True):
            parameter.requires_grad_(flag)


def _mode_of_loss(
    model: nn.Module, analysis: Analysis, loss_of: Callable[[Any, Any], Tensor], piece: Batch
) -> Callable[[nn.Module], AbstractContextManager[None]]:
    """Eval mode; for a loss that only takes what training returns (auxiliary outputs), that."""
    training = analysis.captured.training
    if training is not None and training.outputs:
        try:
            with eval_mode(model), torch.no_grad():
                loss_of(piece.call(model, loss=True), piece.targets)
        except Exception:
            return training_structure
    return eval_mode


@contextmanager
def _own_statistics(model: nn.Module | None) -> Iterator[list[_BatchNorm]]:
    """The batch norms whose statistics are those of what they see while they train; what they track is put back after."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats] if model else []
    tracked = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]
    try:
        yield norms
    finally:
        for buffer, value in tracked:
            buffer.copy_(value)


def _unread(analysis: Analysis, model: nn.Module) -> np.ndarray:
    """Which channels of groups no weight reads."""
    unread = np.zeros(len(analysis.roots), bool)
    for group in analysis.groups:
        unread[group.rows] = True
    for _, channels in owned(analysis, model, lambda begins: not begins):
        unread[channels.flatten().numpy()] = False
    return unread


class _Products:
    """Weight times gradient, for the parameters that have one."""

    def __init__(self, gradients: Mapping[nn.Parameter, Tensor | None]) -> None:
        self.gradients = gradients

    def __call__(self, parameter: nn.Parameter) -> Tensor | None:
        gradient = self.gradients.get(parameter)
        return None if gradient is None else parameter.detach() * gradient
