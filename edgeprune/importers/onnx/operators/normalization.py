"""Normalisation layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeprune.importers.onnx.builder import Call
from edgeprune.importers.onnx.registry import operator
from edgeprune.importers.onnx.values import Size, Value

_BATCH: dict[int, type[nn.Module]] = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
_INSTANCE: dict[int, type[nn.Module]] = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}


def _filled(module: nn.Module, scale: Tensor | None, bias: Tensor | None) -> nn.Module:
    if scale is not None:
        module.weight = nn.Parameter(scale.detach().clone())
    if bias is not None:
        module.bias = nn.Parameter(bias.detach().clone())
    return module


@operator("BatchNormalization")
def batch_norm(call: Call) -> Value:
    """As in inference; a layer that follows the data again when it trains."""
    if call.attribute("training_mode", 0):
        call.refuse("is written for training: export the model in eval mode")
    scale, bias, mean, var = (call.fixed(place, "a statistic") for place in range(1, 5))
    if call[0].rank not in _BATCH:
        call.refuse(f"normalises a tensor of {call[0].rank} dimensions")
    momentum = 1.0 - call.attribute("momentum", 0.9)
    module = _BATCH[call[0].rank](len(scale), call.attribute("epsilon", 1e-5), momentum)
    module.running_mean, module.running_var = mean.detach().clone(), var.detach().clone()
    return call.layer(_filled(module, scale, bias), call[0])


@operator("InstanceNormalization")
def instance_norm(call: Call) -> Value:
    """Over the positions of every channel."""
    scale, bias = call.fixed(1, "a scale"), call.fixed(2, "a bias")
    if call[0].rank not in _INSTANCE:
        call.refuse(f"normalises a tensor of {call[0].rank} dimensions")
    module = _INSTANCE[call[0].rank](len(scale), call.attribute("epsilon", 1e-5), affine=True)
    return call.layer(_filled(module, scale, bias), call[0])


@operator("LayerNormalization")
def layer_norm(call: Call) -> Value:
    """Over all dimensions from ``axis`` on."""
    value, axis = call[0], call.attribute("axis", -1) % call[0].rank
    sizes = value.shape[axis:]
    epsilon, used = call.attribute("epsilon", 1e-5), call.node.outputs[1:]
    if any(name and call.builder.times_read(name) for name in used):
        call.refuse("also returns its statistics")
    if any(isinstance(size, Size) for size in sizes):
        call.refuse("normalises over the samples")
    shape = [size for size in sizes if isinstance(size, int)]
    scale, bias = (_stored(call, place, shape) for place in (1, 2))
    if scale is None or (bias is None and call.optional(2) is not None):
        made = call.apply(functional.layer_norm, value, shape, None, None, epsilon)
        made = call.apply(torch.mul, made, call[1])
        return made if call.optional(2) is None else call.apply(torch.add, made, call[2])
    return call.layer(_filled(nn.LayerNorm(shape, epsilon, bias=bias is not None), scale, bias), value)


def _stored(call: Call, place: int, shape: list[int]) -> Tensor | None:
    """A scale or bias in the shape that a layer has it in; None where it is none."""
    value = call.optional(place)
    fixed = value.fixed if value is not None else None
    if fixed is None or fixed.dim() > len(shape):
        return None
    return fixed.expand(shape).contiguous()


@operator("RMSNormalization")
def rms_norm(call: Call) -> Value:
    """By the root of the mean square over all dimensions from ``axis`` on."""
    axis = call.attribute("axis", -1) % call[0].rank
    shape = [size for size in call[0].shape[axis:] if isinstance(size, int)]
    scale = _stored(call, 1, shape)
    if scale is None or len(shape) != call[0].rank - axis:
        call.refuse("has a scale that is not stored, or normalises over the samples")
    return call.layer(_filled(nn.RMSNorm(shape, call.attribute("epsilon", 1e-5)), scale, None), call[0])


@operator("GroupNormalization")
def group_norm(call: Call) -> Value:
    """Over groups of channels; scales are one a group in operator sets below 21, else one a channel."""
    groups, channels = call.attribute("num_groups"), call[0].shape[1]
    assert isinstance(channels, int)
    scale, bias = call.fixed(1, "a scale"), call.fixed(2, "a bias")
    if scale.numel() == groups != channels:
        scale, bias = (value.repeat_interleave(channels // groups) for value in (scale, bias))
    return call.layer(_filled(nn.GroupNorm(groups, channels, call.attribute("epsilon", 1e-5)), scale, bias), call[0])


@operator("LRN")
def local_response_norm(call: Call) -> Value:
    """Across neighbouring channels."""
    size = call.attribute("size")
    return call.layer(
        nn.LocalResponseNorm(size, call.attribute("alpha", 1e-4), call.attribute("beta", 0.75), call.attribute("bias", 1.0)), call[0]
    )


@operator("LpNormalization")
def lp_norm(call: Call) -> Value:
    """By the norm along a dimension."""
    return call.apply(functional.normalize, call[0], float(call.attribute("p", 2)), call.attribute("axis", -1), 0.0)


@operator("MeanVarianceNormalization")
def mean_variance(call: Call) -> Value:
    """To mean 0 and deviation 1 over dimensions."""
    return call.apply(_standard, call[0], tuple(call.attribute("axes", [0, 2, 3])))


def _standard(value: Tensor, dims: tuple[int, ...]) -> Tensor:
    centred = value - value.mean(dims, True)
    return centred / ((centred * centred).mean(dims, True).sqrt() + 1e-9)
