"""Exporters write a layer with a bias as a product and an addition: here they become one layer again."""

from __future__ import annotations

from torch import fx, nn

from edgeprune.importers.onnx.builder import Call
from edgeprune.importers.onnx.values import Value

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def into_layer(call: Call, value: Value, addend: Value, first: bool) -> Value | None:
    """``value`` with ``addend`` as the bias of the layer that makes it; None where it does not become one.  ``first``: whether ``value`` is
    the first input."""
    fixed, node = addend.fixed, value.node
    if fixed is None or not fixed.is_floating_point() or not isinstance(node, fx.Node) or node.op != "call_module" or node.users:
        return None
    if not call.read_once(0 if first else 1):
        return None
    module = call.builder.root.get_submodule(str(node.target))
    if isinstance(module, nn.Linear) and module.bias is None:
        wanted, rest = fixed.shape[-1:], fixed.shape[:-1]
        channels = module.out_features
    elif isinstance(module, _CONVOLUTIONS) and module.bias is None:
        spatial = value.rank - 2
        if fixed.dim() < spatial + 1 or any(size != 1 for size in fixed.shape[fixed.dim() - spatial :]):
            return None
        wanted, rest = fixed.shape[-spatial - 1 : -spatial], fixed.shape[: -spatial - 1]
        channels = module.out_channels
    else:
        return None
    if tuple(wanted) != (channels,) or any(size != 1 for size in rest) or fixed.dim() > value.rank:
        return None
    call.builder.absorbed.add(call.node.inputs[0 if first else 1])
    module.bias = nn.Parameter(fixed.detach().reshape(channels).clone())
    return Value(tuple(one + fixed for one in value.examples), node)
