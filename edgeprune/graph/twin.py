"""A model to try things on."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import torch
from torch import nn


def twin(model: nn.Module) -> nn.Module:
    """A copy that shares ``model``'s parameters, with buffers, flags and kept values of its own: running it in training, or exporting it,
    leaves ``model`` as it is.  The model itself where it cannot be copied."""
    try:
        return _copied(model, {id(parameter): parameter for parameter in model.parameters()})
    except Exception:  # it keeps what has no copy (a tensor with a history, a lock)
        return model


def hollow(model: nn.Module) -> nn.Module:
    """A copy on the device "meta", which computes shapes only.  Raises what copying raises."""
    with torch.no_grad():
        kept: dict[int, Any] = {id(buffer): buffer.to("meta") for buffer in model.buffers()}
        kept |= {id(value): nn.Parameter(value.to("meta"), value.requires_grad) for value in model.parameters()}
    return _copied(model, kept)


def _copied(model: nn.Module, instead: dict[int, Any]) -> nn.Module:
    """``instead``: what takes the place of an object, by its id.  The dozen hooks that every module does not have are copied here, since
    ``deepcopy`` takes most of its time for them."""
    for module in model.modules():
        instead |= {id(value): OrderedDict() for value in vars(module).values() if type(value) is OrderedDict and not value}
    return copy.deepcopy(model, instead)
