"""A plan applied to the user's own modules."""

from __future__ import annotations

import copy
from typing import cast

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from edgeprune.graph.capture import eval_mode
from edgeprune.surgery.parameters import replace_tensors


def apply_in_place(model: nn.Module, masks: dict[str, Tensor]) -> nn.Module:
    """A copy of ``model`` with smaller tensors, and the attributes that hold their sizes corrected."""
    result = copy.deepcopy(model)
    with eval_mode(result):
        result.train()  # what modules keep from one evaluation to the next has the old sizes
    replace_tensors(result, masks)
    touched = {name.rpartition(".")[0] for name in masks}
    for name, module in result.named_modules():
        if name in touched:
            _correct_sizes(module)
    return result


def _correct_sizes(module: nn.Module) -> None:
    if isinstance(module, _ConvNd):
        _correct_convolution(module)
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, _NormBase):
        holder = module.weight if module.weight is not None else module.running_mean
        if holder is not None:
            module.num_features = holder.shape[0]
    elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        module.normalized_shape = tuple(module.weight.shape)
    elif isinstance(module, nn.GroupNorm):
        module.num_channels = module.weight.shape[0]
    elif isinstance(module, nn.PReLU):
        module.num_parameters = module.weight.numel()
    elif isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = module.weight.shape
    elif isinstance(module, nn.RNNBase):
        _correct_recurrent(module)
    elif isinstance(module, nn.RNNCellBase):
        module.hidden_size, module.input_size = module.weight_hh.shape[1], module.weight_ih.shape[1]
    elif isinstance(module, nn.MultiheadAttention):
        weights = [module.in_proj_weight] * 3 if module.in_proj_weight is not None else _projections(module)
        module.embed_dim, module.kdim, module.vdim = (weight.shape[1] for weight in weights)
        module.num_heads = module.embed_dim // module.head_dim


def _projections(module: nn.MultiheadAttention) -> list[Tensor]:
    return [cast(Tensor, module.get_parameter(f"{name}_proj_weight")) for name in "qkv"]


def _correct_convolution(module: _ConvNd) -> None:
    weight = module.weight
    outputs, inputs = (weight.shape[1], weight.shape[0]) if module.transposed else (weight.shape[0], weight.shape[1])
    if module.groups > 1 and module.groups == module.in_channels:
        per_channel = module.out_channels // module.groups
        module.groups = inputs if module.transposed else outputs // per_channel
    if module.transposed:
        module.in_channels, module.out_channels = inputs, outputs * module.groups
    else:
        module.out_channels, module.in_channels = outputs, inputs * module.groups


def _correct_recurrent(module: nn.RNNBase) -> None:
    first = cast(Tensor, module.weight_ih_l0)
    module.hidden_size, module.input_size = first.shape[0] // {"LSTM": 4, "GRU": 3}.get(module.mode, 1), first.shape[1]
    if module.proj_size:
        module.proj_size = cast(Tensor, module.weight_hr_l0).shape[0]
    module._flat_weights = [getattr(module, name) for name in module._flat_weights_names]
