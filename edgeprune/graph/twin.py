"""A model to try things on."""

from __future__ import annotations

import copy

from torch import nn


def twin(model: nn.Module) -> nn.Module:
    """A copy that shares ``model``'s parameters, with buffers, flags and kept values of its own: running it in training, or exporting it,
    leaves ``model`` as it is.  The model itself where it cannot be copied."""
    try:
        return copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})
    except Exception:  # it keeps what has no copy (a tensor with a history, a lock)
        return model
