"""Learning from the dense model's answers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils import _pytree as pytree

TEMPERATURE = 4.0


def distillation_loss(outputs: Any, wanted: Any, targets: Any) -> Tensor | None:
    """How far a student's ``outputs`` are from the teacher's, ``wanted``; ``None`` when that is not one tensor, or none of the student's
    has its shape (of several, as auxiliary heads give in training, the first counts).

    Class scores (N, classes, ...) with integer ``targets``: the Kullback-Leibler divergence of the distributions softened by
    ``TEMPERATURE``, times its square so that gradients keep their size (Hinton, Vinyals & Dean, "Distilling the Knowledge in a
    Neural Network", 2015, section 2.1), averaged over samples and positions. Any other floating tensor: the mean squared error.
    """
    answers = _floating(wanted)
    matching = [value for value in _floating(outputs) if len(answers) == 1 and value.shape == answers[0].shape]
    if not matching:
        return None
    outputs, wanted = matching[0], answers[0]
    classes = isinstance(targets, Tensor) and not targets.is_floating_point() and outputs.dim() >= 2 and outputs.shape[1] > 1
    if not classes:
        return F.mse_loss(outputs, wanted)
    student = F.log_softmax(outputs / TEMPERATURE, 1)
    teacher = F.log_softmax(wanted / TEMPERATURE, 1)
    divergence: Tensor = torch.sum(F.kl_div(student, teacher, reduction="none", log_target=True), 1)
    return divergence.mean() * TEMPERATURE**2


def _floating(value: Any) -> list[Tensor]:
    """The floating tensors of an output, without a loss among them."""
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.dim()]
