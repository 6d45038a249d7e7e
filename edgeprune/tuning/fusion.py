"""A frozen model for inference on the CPU: batch norms in the weights before them, activations and additions in the convolutions."""

from __future__ import annotations

import operator
from itertools import takewhile
from typing import Any, Final

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse

_RELU: Final = (nn.functional.relu, torch.relu, torch.ops.aten.relu.default, "relu", "relu_")
_ADD: Final = (operator.add, operator.iadd, torch.add, "add", "add_")


def folded(model: nn.Module) -> fx.GraphModule | None:
    """With batch norms multiplied into the weights before them; None where there is nothing to put together, or it cannot be traced."""
    if not any(isinstance(module, (nn.Conv2d, nn.modules.batchnorm._BatchNorm)) for module in model.modules()):
        return None
    try:
        found = fuse(model).eval().requires_grad_(False)
    except Exception:  # its code depends on its inputs
        return None
    return found if isinstance(found, fx.GraphModule) else None


def joined(model: fx.GraphModule) -> bool:
    """Let convolutions of two dimensions do the addition and the ReLU behind them, which oneDNN computes while a result is still in the
    cache; False where there are none.  Changes the model, which then runs on the CPU only."""
    modules, changed = dict(model.named_modules()), False
    for node in list(model.graph.nodes):
        convolution = modules.get(str(node.target)) if node.op == "call_module" else None
        if type(convolution) is not nn.Conv2d or convolution.padding_mode != "zeros" or isinstance(convolution.padding, str):
            continue
        last, other = _added(node), None
        if last is not None:
            other = next(part for part in last.args if part is not node)
        relu = _only_user(last or node, _RELU, modules)
        if last is None and relu is None:
            continue
        end = relu or last
        assert end is not None
        name = f"_joined_{node.name}"
        modules[name] = _Joined(convolution, last is not None, relu is not None, over=_is_free(other, node, last, modules))
        model.add_submodule(name, modules[name])
        with model.graph.inserting_before(end):
            made = model.graph.call_module(name, (node.args[0], *([other] if other is not None else [])))
        end.replace_all_uses_with(made)
        for gone in dict.fromkeys((end, last, node)):
            if gone is not None:
                model.graph.erase_node(gone)
        changed = True
    if changed:
        model.recompile()
    return changed


def _only_user(node: fx.Node, kinds: tuple[Any, ...], modules: dict[str, nn.Module]) -> fx.Node | None:
    """The one that uses a node, if it is of these kinds."""
    user = next(iter(node.users)) if len(node.users) == 1 else None
    if user is None:
        return None
    known = isinstance(modules.get(str(user.target)), nn.ReLU) and _RELU is kinds if user.op == "call_module" else user.target in kinds
    return user if known else None


def _added(node: fx.Node) -> fx.Node | None:
    """What adds another tensor to a node's, if nothing else uses it."""
    user = _only_user(node, _ADD, {})
    plain = user is not None and len(user.args) == 2 and not user.kwargs and all(isinstance(part, fx.Node) for part in user.args)
    return user if plain and user is not None and user.args[0] is not user.args[1] else None


def _is_free(value: Any, convolution: fx.Node, addition: fx.Node | None, modules: dict[str, nn.Module]) -> bool:
    """Whether nobody else needs the memory of what is added once the convolution is computed, so that the sum may take it."""
    while isinstance(value, fx.Node) and isinstance(modules.get(str(value.target)), nn.Identity):
        value = value.args[0]
    if not isinstance(value, fx.Node) or not (_convolves(value, modules) or value.target is nn.functional.pad):
        return False
    earlier, holders = set(takewhile(lambda node: node is not convolution, convolution.graph.nodes)), [value]
    for holder in holders:
        for user in holder.users:
            if user.op == "call_module" and isinstance(modules.get(str(user.target)), nn.Identity):
                holders.append(user)
            elif user is not addition and not (user in earlier and _convolves(user, modules)):
                return False
    return True


def _convolves(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    return node.op == "call_module" and isinstance(modules.get(str(node.target)), (nn.Conv2d, _Joined))


class _Joined(nn.Module):
    """A convolution, then perhaps an addition, then perhaps a ReLU.  ``over``: the sum takes the memory of what is added."""

    def __init__(self, convolution: nn.Conv2d, adds: bool, relu: bool, over: bool) -> None:
        super().__init__()
        self.convolution, self.adds, self.after, self.over = convolution, adds, "relu" if relu else "none", over

    def forward(self, value: Tensor, *others: Tensor) -> Tensor:
        """``others``: what is added."""
        own = self.convolution
        how = (own.weight, own.bias, own.padding, own.stride, own.dilation, own.groups)
        if not self.adds:
            return torch.ops.mkldnn._convolution_pointwise(value, *how, self.after, [], "")  # type: ignore[no-any-return]
        relu = self.after if self.after != "none" else None
        other = others[0].contiguous(memory_format=torch.channels_last)
        if self.over:
            return torch.ops.mkldnn._convolution_pointwise_.binary(other, value, *how, "add", 1.0, relu, [], "")  # type: ignore[no-any-return]
        return torch.ops.mkldnn._convolution_pointwise.binary(value, other, *how, "add", 1.0, relu, [], "")  # type: ignore[no-any-return]
