"""Memory layout of images: channels-last, which CPU convolutions run fastest in, where the model computes the same with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from edgeprune.graph.twin import twin
from edgeprune.task import as_inputs
from edgeprune.tuning.context import is_image, preserved_modes, seeded

_KNOWN: WeakKeyDictionary[nn.Module, dict[bool, bool]] = WeakKeyDictionary()
"""For every model whether it takes channels-last images: to evaluate (False), to train (True)."""

SAMPLES = 2
"""Images that the layout is tried on."""


def batch_inputs(model: nn.Module, inputs: Any, training: bool = False) -> tuple[Any, ...]:
    """A batch's positional inputs, images (4-D floating tensors) channels-last where ``model`` takes them so."""
    arguments = as_inputs(inputs)
    return _laid_out(arguments) if takes_channels_last(model, arguments, training) else arguments


def takes_channels_last(model: nn.Module, arguments: tuple[Any, ...], training: bool = False) -> bool:
    """Whether ``model`` computes the same from channels-last images; with ``training``, whether it also trains on them with channels-last
    weights.

    A model may use ``view`` or strides, which need contiguous memory.  The first call tries it on a few samples; later calls of the same
    model remember the answer.
    """
    if not any(map(is_image, arguments)):
        return False
    known = _KNOWN.setdefault(model, {})
    if training not in known:
        few = _few(arguments)
        known[training] = _evaluates(model, few, training) and (not training or _trains(model, few))
    return known[training]


def _trains(model: nn.Module, arguments: tuple[Any, ...]) -> bool:
    """Whether a pass forward and backward in training mode raises nothing; what it computes is random."""
    tried = twin(model).train()
    weights = [parameter for parameter in tried.parameters() if parameter.requires_grad]
    try:
        with seeded(0), torch.enable_grad(), channels_last(tried, True):
            sums = [value.float().sum() for value in _outputs(tried, _laid_out(arguments)) if value.requires_grad]
            if sums:
                torch.autograd.grad(torch.stack(sums).sum(), weights, allow_unused=True)
    except Exception:
        return False
    return True


def _evaluates(model: nn.Module, arguments: tuple[Any, ...], weights: bool) -> bool:
    with preserved_modes(model), seeded(0), torch.no_grad():
        model.eval()
        try:
            wanted = _outputs(model, arguments)
            with channels_last(model, weights):
                got = _outputs(model, _laid_out(arguments))
        except Exception:  # what is wrong with the model or the batch shows when it is run
            return False
    same = len(got) == len(wanted) and all(one.shape == other.shape for one, other in zip(got, wanted, strict=True))
    return same and all(_close(one, other) for one, other in zip(got, wanted, strict=True))


def _close(one: Tensor, other: Tensor) -> bool:
    """Equal but for sums in another order."""
    scale = float(other.double().abs().amax()) if other.numel() else 0.0
    return torch.allclose(one.double(), other.double(), rtol=1e-3, atol=1e-3 * scale, equal_nan=True)


def _outputs(model: nn.Module, arguments: tuple[Any, ...]) -> list[Tensor]:
    return [value for value in pytree.tree_leaves(model(*arguments)) if isinstance(value, Tensor)]


def _few(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """The first samples, where all tensors hold equally many."""
    tensors = [value for value in pytree.tree_leaves(arguments) if isinstance(value, Tensor)]
    if len({value.shape[0] if value.dim() else 0 for value in tensors}) > 1:
        return arguments
    return tuple(pytree.tree_map_only(Tensor, lambda value: value[:SAMPLES], arguments))


def _laid_out(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value.contiguous(memory_format=torch.channels_last) if is_image(value) else value for value in arguments)


@contextmanager
def channels_last(model: nn.Module, wanted: bool) -> Iterator[None]:
    """Hold ``model``'s 4-D parameters channels-last inside, and contiguous after."""
    if not wanted:
        yield
        return
    _to_format(model, torch.channels_last)
    try:
        yield
    finally:
        _to_format(model, torch.contiguous_format)


def _to_format(model: nn.Module, memory_format: torch.memory_format) -> None:
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=memory_format)
