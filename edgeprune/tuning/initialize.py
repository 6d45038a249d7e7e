"""New weights, to train from scratch."""

from __future__ import annotations

import copy

from torch import nn

from edgeprune.errors import TrainingError
from edgeprune.tuning.context import seeded


def initialized(model: nn.Module, seed: int = 0) -> nn.Module:
    """A copy of ``model`` with the weights its modules start with: each one's own ``reset_parameters``, from ``seed``.

    Raises :class:`TrainingError` naming the modules that own parameters and cannot be initialized.
    Source: Liu et al., "Rethinking the Value of Network Pruning", 2019 (a structure trained from scratch as the control).
    """
    result = copy.deepcopy(model)
    stuck = []
    with seeded(seed):
        for name, module in result.named_modules():
            reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
            if callable(reset):
                reset()
            elif next(module.parameters(recurse=False), None) is not None:
                stuck.append(name or type(module).__name__)
    if stuck:
        raise TrainingError(
            f"{', '.join(stuck[:5])} own parameters and have no reset_parameters()",
            remedy="Give them one, or fine-tune (--training fine-tune).",
        )
    return result
