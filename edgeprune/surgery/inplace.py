"""A plan applied to the user's own modules."""

from __future__ import annotations

import copy

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from edgeprune.surgery.parameters import replace_tensors


def apply_in_place(model: nn.Module, masks: dict[str, Tensor]) -> nn.Module:
    """A copy of ``model`` with smaller tensors, and the attributes that hold their sizes corrected."""
    result = copy.deepcopy(model)
    replace_tensors(result, masks)
    touched = {name.rpartition(".")[0] for name in masks}
    for name, module in result.named_modules():
        if name in touched:
            _correct_sizes(module)
    return result


def _correct_sizes(module: nn.Module) -> None:
    if isinstance(module, _ConvNd) and not module.transposed:
        weight = module.weight
        if module.groups > 1 and module.groups == module.in_channels:
            module.groups = weight.shape[0] // (module.out_channels // module.groups)
        module.out_channels, module.in_channels = weight.shape[0], weight.shape[1] * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, _NormBase):
        holder = module.weight if module.weight is not None else module.running_mean
        if holder is not None:
            module.num_features = holder.shape[0]
    elif isinstance(module, nn.PReLU):
        module.num_parameters = module.weight.numel()
