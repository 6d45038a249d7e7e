"""Learning from the dense model's answers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

TEMPERATURE = 4.0


def distillation_loss(outputs: Any, wanted: Any, targets: Any) -> Tensor | None:
    """How far a student's ``outputs`` are from the teacher's, ``wanted``; ``None`` when they are not one tensor of equal shape.

    Class scores (N, classes, ...) with integer ``targets``: the Kullback-Leibler divergence of the distributions softened by
    ``TEMPERATURE``, times its square so that gradients keep their size (Hinton, Vinyals & Dean, "Distilling the Knowledge in a
    Neural Network", 2015, section 2.1), averaged over samples and positions. Any other floating tensor: the mean squared error.
    """
    if not (isinstance(outputs, Tensor) and isinstance(wanted, Tensor) and outputs.shape == wanted.shape and outputs.is_floating_point()):
        return None
    classes = isinstance(targets, Tensor) and not targets.is_floating_point() and outputs.dim() >= 2 and outputs.shape[1] > 1
    if not classes:
        return F.mse_loss(outputs, wanted)
    student = F.log_softmax(outputs / TEMPERATURE, 1)
    teacher = F.log_softmax(wanted / TEMPERATURE, 1)
    divergence: Tensor = torch.sum(F.kl_div(student, teacher, reduction="none", log_target=True), 1)
    return divergence.mean() * TEMPERATURE**2
