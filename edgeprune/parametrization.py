"""Weights that a model computes from others on every call (weight norm, spectral norm, pruning masks), folded into plain weights."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from typing import Any, cast

from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm, remove_spectral_norm
from torch.nn.utils.weight_norm import WeightNorm, remove_weight_norm

from edgeprune.errors import GraphError

HOOKS = (BasePruningMethod, WeightNorm, SpectralNorm)
"""Forward hooks of ``torch.nn.utils`` that compute a weight; masks come first, since a norm may be that of a masked tensor."""


def folded(model: nn.Module) -> nn.Module:
    """``model`` itself, or, where it computes weights from others, a copy that stores those weights and computes the same in eval mode.

    Parametrizations of ``torch.nn.utils.parametrize`` and the hooks of ``weight_norm``, ``spectral_norm`` and ``torch.nn.utils.prune``
    are folded, with a warning that names them: training the copy changes the plain weights.  Raises :class:`GraphError` for a weight that
    is not finite.
    """
    names = [f"{path or type(model).__name__}.{weight} ({kind})" for path, weight, kind in computed_weights(model)]
    if not names:
        return model
    shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    warnings.warn(f"computed weights are folded into plain ones before pruning: {shown}", stacklevel=3)
    _detach_computed(model)
    result = copy.deepcopy(model)
    modes = [(module, module.training) for module in result.modules()]
    result.eval()
    for path, module in list(result.named_modules()):
        _fold_hooks(module, path)
    for path, module in list(result.named_modules()):
        if parametrize.is_parametrized(module):
            _fold_parametrizations(module, path)
    for module, training in modes:
        module.training = training
    return result


def computed_weights(model: nn.Module) -> Iterator[tuple[str, str, str]]:
    """The module path, tensor name and kind of every weight that :func:`folded` stores."""
    for path, module in model.named_modules():
        for _, name, kind in _hooks(module):
            yield path, name, kind
        if parametrize.is_parametrized(module):
            for name, chain in cast(Any, module.parametrizations).items():
                yield path, name, _kind(chain)


def _kind(chain: Any) -> str:
    return ", ".join(type(step).__name__.lstrip("_") for step in chain)


def _hooks(module: nn.Module) -> list[tuple[int, str, str]]:
    """The key of every hook that computes a weight, the weight's name, and the kind of hook."""
    found = [(key, hook) for kind in HOOKS for key, hook in module._forward_pre_hooks.items() if isinstance(hook, kind)]
    return [
        (key, hook._tensor_name, "torch.nn.utils.prune") if isinstance(hook, BasePruningMethod) else (key, hook.name, type(hook).__name__)
        for key, hook in found
    ]


def _detach_computed(model: nn.Module) -> None:
    """What hooks left behind in the last call is not a leaf, and cannot be copied; the next call computes it again."""
    for module in model.modules():
        for _, name, _ in _hooks(module):
            value = module.__dict__.get(name)
            if isinstance(value, Tensor):
                module.__dict__[name] = value.detach()


def _fold_hooks(module: nn.Module, path: str) -> None:
    for key, name, kind in _hooks(module):
        hook = module._forward_pre_hooks[key]
        trained = any(value.requires_grad for other, value in module.named_parameters(recurse=False) if other.startswith(f"{name}_"))
        if isinstance(hook, BasePruningMethod):
            hook.remove(module)
            del module._forward_pre_hooks[key]
        elif isinstance(hook, WeightNorm):
            remove_weight_norm(module, name)
        else:
            remove_spectral_norm(module, name)
            for other, wrapped in list(module._load_state_dict_pre_hooks.items()):  # torch looks for it without its wrapper
                if getattr(getattr(wrapped, "hook", wrapped), "fn", None) is hook:
                    del module._load_state_dict_pre_hooks[other]
        _settled(module, name, path, kind, trained)


def _fold_parametrizations(module: nn.Module, path: str) -> None:
    """As ``remove_parametrizations`` does, which would take the parametrization from the copied module's original too."""
    chains: Any = module.parametrizations
    found = [(name, getattr(module, name).detach().clone(), list(chain.parameters()), _kind(chain)) for name, chain in chains.items()]
    module.__class__ = parametrize.type_before_parametrizations(module)
    del module._modules["parametrizations"]
    for name, value, parameters, kind in found:
        module.register_buffer(name, value)
        if parameters:
            _settled(module, name, path, kind, any(parameter.requires_grad for parameter in parameters))


def _settled(module: nn.Module, name: str, path: str, kind: str, trained: bool) -> None:
    """The folded weight as a parameter that is finite, and known to the recurrent layer that it belongs to."""
    value = getattr(module, name)
    if not bool(value.isfinite().all()):
        raise GraphError(
            f"the weight {path}.{name}, computed by {kind}, is not finite", remedy="Check the model: a norm of zero divides by zero."
        )
    if not isinstance(value, nn.Parameter):
        module._buffers.pop(name, None)
        module.__dict__.pop(name, None)
        module.register_parameter(name, nn.Parameter(value.detach()))
    getattr(module, name).requires_grad_(trained)
    if isinstance(module, nn.RNNBase):
        module._init_flat_weights()
