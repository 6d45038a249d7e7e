"""Memory layout of images and of their gradients: channels-last, which CPU convolutions run fastest in, where the model computes the same
with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary, WeakValueDictionary

import torch
from torch import Tensor, nn

from edgeprune.batches import Batch, tensors_of
from edgeprune.graph.twin import twin
from edgeprune.placement import device_of, wide
from edgeprune.tuning.context import is_image, preserved_modes, seeded

_KNOWN: WeakKeyDictionary[nn.Module, dict[bool, bool]] = WeakKeyDictionary()
"""For every model whether it takes channels-last images: to evaluate (False), to train (True)."""

SAMPLES = 2
"""Images that the layout is tried on."""


def laid_out(model: nn.Module, batch: Batch, training: bool = False) -> Batch:
    """The batch where the weights of ``model`` are, with its images (4-D floating tensors) channels-last where ``model`` takes them so."""
    batch = batch.to(device_of(model))
    return channels_last_batch(batch) if takes_channels_last(model, batch, training) else batch


def takes_channels_last(model: nn.Module, batch: Batch, training: bool = False) -> bool:
    """Whether ``model`` computes the same from channels-last images; with ``training``, whether it also trains on them with channels-last
    weights.

    A model may use ``view`` or strides, which need contiguous memory.  The first call tries it on a few samples; later calls of the same
    model remember the answer.
    """
    if not any(map(is_image, batch.leaves)):
        return False
    known = _KNOWN.setdefault(model, {})
    if training not in known:
        tried = few(batch.to(device_of(model)))
        known[training] = _evaluates(model, tried, training) and (not training or _trains(model, tried))
    return known[training]


def _trains(model: nn.Module, batch: Batch) -> bool:
    """Whether a pass forward and backward in training mode raises nothing; what it computes is random."""
    tried = twin(model).train()
    weights = [parameter for parameter in tried.parameters() if parameter.requires_grad]
    try:
        with seeded(0), torch.enable_grad(), channels_last(tried, True):
            sums = [value.float().sum() for value in _outputs(tried, channels_last_batch(batch)) if value.requires_grad]
            if sums:
                torch.autograd.grad(torch.stack(sums).sum(), weights, allow_unused=True)
    except Exception:
        return False
    return True


def _evaluates(model: nn.Module, batch: Batch, weights: bool) -> bool:
    with preserved_modes(model), seeded(0), torch.no_grad():
        model.eval()
        try:
            wanted = _outputs(model, batch)
            with channels_last(model, weights):
                got = _outputs(model, channels_last_batch(batch))
        except Exception:  # what is wrong with the model or the batch shows when it is run
            return False
    same = len(got) == len(wanted) and all(one.shape == other.shape for one, other in zip(got, wanted, strict=True))
    return same and all(_close(one, other) for one, other in zip(got, wanted, strict=True))


def _close(one: Tensor, other: Tensor) -> bool:
    """Equal but for sums in another order."""
    one, other = wide(one), wide(other)
    scale = float(other.abs().amax()) if other.numel() else 0.0
    return torch.allclose(one, other, rtol=1e-3, atol=1e-3 * scale, equal_nan=True)


def _outputs(model: nn.Module, batch: Batch) -> list[Tensor]:
    return tensors_of(batch.call(model))


def few(batch: Batch) -> Batch:
    """The first samples of a batch, where all of its inputs hold equally many."""
    if len({value.shape[0] if value.dim() else 0 for value in tensors_of(batch.leaves)}) > 1:
        return batch
    return batch.mapped(lambda value: value[:SAMPLES], targets=False)


def channels_last_batch(batch: Batch) -> Batch:
    """The batch with its images (4-D floating tensors) channels-last."""
    return batch.mapped(lambda value: value.contiguous(memory_format=torch.channels_last) if is_image(value) else value, targets=False)


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


_KERNELS: WeakValueDictionary[str, torch.library.Library] = WeakValueDictionary()
"""What is registered while any training runs here."""


@contextmanager
def slices_keep_layout() -> Iterator[None]:
    """Let the gradient of what was sliced lie in memory as the slice's gradient does, on the CPU, for all of this process inside.

    PyTorch makes it contiguous. Added to a channels-last gradient (a shortcut that takes every second pixel, beside a convolution) it
    makes the sum contiguous too, and what combines that with channels-last activations then takes up to thirty times as long.
    """
    kernels = _KERNELS.get("slices")
    if kernels is None:
        _KERNELS["slices"] = kernels = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
        kernels.impl("slice_backward", _slice_backward, "CPU")  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        del kernels  # the last one takes the kernel with it


def _slice_backward(gradient: Tensor, sizes: list[int], dim: int, start: int, end: int, step: int) -> Tensor:
    order = sorted(range(gradient.dim()), key=gradient.stride, reverse=True)
    made = torch.empty_permuted(sizes, order, dtype=gradient.dtype, device=gradient.device).zero_()
    torch.ops.aten.slice.Tensor(made, dim, start, end, step).copy_(gradient)
    return made
