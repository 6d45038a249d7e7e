"""Batch norm of a training step on the CPU: several pixels at a time, and over all ranks of a tuning."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

WIDEST: Final = 1024
"""Channels that are normalised side by side at most."""

Total = Callable[[Tensor], Tensor]
"""Sums a vector over all ranks."""


@contextmanager
def quick_norms(model: nn.Module, total: Total | None = None) -> Iterator[None]:
    """Let the batch norms of ``model`` on the CPU compute their training step faster inside; with ``total``, over all ranks.

    PyTorch's own goes through the channels of one pixel at a time where they lie innermost, and has little to do at once where there are
    few of them. Here the channels of up to 64 pixels are normalised side by side and their statistics put together. Values are the same
    but for rounding.
    """
    changed = [module for module in model.modules() if type(module) in _KINDS and "forward" not in vars(module)]
    try:
        for module in changed:
            module.forward = _Forward(module, total)  # type: ignore[method-assign,assignment,arg-type]
        yield
    finally:
        for module in changed:
            del module.forward


_KINDS: Final = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class _Forward:
    """``forward`` of one batch norm."""

    def __init__(self, module: _BatchNorm, total: Total | None) -> None:
        self.module, self.total = module, total
        self._seen: dict[tuple[int, ...], _Wide] = {}

    def __call__(self, value: Tensor) -> Tensor:
        module, dense = self.module, value.device.type == "cpu" and value.is_floating_point()
        few = value.dim() < 2 or value.numel() <= value.shape[1] or value.shape[1] != module.num_features
        if not module.training or not dense or few or value.dtype == torch.float64:
            return type(module).forward(module, value)
        module._check_input_dim(value)  # type: ignore[no-untyped-call]
        weight = module.weight if module.weight is not None else torch.ones(module.num_features)
        bias = module.bias if module.bias is not None else torch.zeros(module.num_features)
        total = self.total if torch.is_grad_enabled() else None  # statistics that are measured again see all batches in every rank
        result, mean, variance, count = _Normalize.apply(value, weight, bias, self._wide(value), module.eps, total)  # type: ignore[no-untyped-call]
        if module.track_running_stats:
            _track(module, mean, variance, count)
        return result  # type: ignore[no-any-return]

    def _wide(self, value: Tensor) -> _Wide:
        """The same for every tensor that lies like this one."""
        key = (*value.shape, *value.stride())
        if key not in self._seen:
            self._seen = {key: _Wide(value)}
        return self._seen[key]


def _track(module: _BatchNorm, mean: np.ndarray, variance: np.ndarray, count: float) -> None:
    """Update the running statistics, as PyTorch does."""
    assert module.running_mean is not None
    assert module.running_var is not None
    share = module.momentum
    if module.num_batches_tracked is not None:
        module.num_batches_tracked.add_(1)
        share = 1.0 / float(module.num_batches_tracked) if share is None else share
    for kept, seen in ((module.running_mean, mean), (module.running_var, variance * (count / (count - 1)))):
        if kept.dtype == torch.float32:
            own = kept.numpy()
            own += (share or 0.0) * (seen - own)
        else:
            kept.lerp_(torch.from_numpy(seen).to(kept.dtype), share or 0.0)


class _Wide:
    """A tensor seen as rows of several pixels' channels: ``repeat`` pixels in a row.

    Vectors of one number a channel are numpy's, in float64: they are short, and PyTorch takes longer to begin with them.
    """

    def __init__(self, value: Tensor) -> None:
        self.channels, pixels = value.shape[1], value.numel() // value.shape[1]
        innermost = value.dim() == 2 and value.is_contiguous()
        innermost |= value.dim() == 4 and value.is_contiguous(memory_format=torch.channels_last)
        self.repeat, self._shape, self._strides = 1, value.shape, value.stride()
        self._grid: tuple[int, ...] | None = None
        if innermost:
            self.repeat = next(k for k in (64, 32, 16, 8, 4, 2, 1) if pixels % k == 0 and (k * self.channels <= WIDEST or k == 1))
            self._grid = (1, self.repeat * self.channels, pixels // self.repeat, 1)
        self.zeros, self.ones = torch.zeros(self.repeat * self.channels), torch.ones(self.repeat * self.channels)

    def of(self, value: Tensor) -> Tensor:
        """The view of a tensor that lies as the first one does."""
        if self._grid is None:
            return value
        _, width, rows, _ = self._grid
        return value.as_strided(self._grid, (rows * width, 1, width, width))

    def back(self, value: Tensor) -> Tensor:
        """The tensor of a view, not itself a view: what autograd gets may be changed in place (``out += identity``)."""
        if self._grid is None:
            return value
        return value.new_empty(0).set_(value.untyped_storage(), value.storage_offset(), self._shape, self._strides)

    def tiled(self, *vectors: np.ndarray) -> tuple[Tensor, ...]:
        """Each for every pixel of a row."""
        made = np.empty((len(vectors), self.repeat, self.channels), np.float32)
        for place, vector in enumerate(vectors):
            made[place] = vector
        return torch.from_numpy(made.reshape(len(vectors), -1)).unbind()

    def summed(self, tiled: np.ndarray) -> np.ndarray:
        """Over the pixels of a row."""
        found: np.ndarray = np.add.reduce(tiled.reshape(self.repeat, -1), 0, np.float64)
        return found

    def statistics(self, value: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of every channel of a view."""
        running = torch.zeros_like(self.zeros), torch.ones_like(self.ones)  # give the precision; of one row they become NaN
        found = torch.ops.aten.batch_norm_update_stats(value, *running, 0.0)
        means, variances = (part.numpy() for part in found)
        mean = self.summed(means) / self.repeat
        away = means.reshape(self.repeat, -1) - mean
        return mean, (self.summed(variances) + self.summed(away * away)) / self.repeat

    def scaled(self, value: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """``value * scale + shift`` of a view, with what :meth:`tiled` makes."""
        result: Tensor = torch.ops.aten.native_batch_norm(value, scale, shift, self.zeros, self.ones, False, 0.0, 0.0)[0]
        return result


class _Normalize(torch.autograd.Function):
    """``(normalised, mean, variance, count)`` of a batch."""

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, weight: Tensor, bias: Tensor, wide: _Wide, eps: float, total: Total | None
    ) -> tuple[Tensor, np.ndarray, np.ndarray, float]:
        seen, count = wide.of(value), value.numel() / value.shape[1]
        mean, variance = wide.statistics(seen)
        if total is not None:
            count, mean, variance = _over_ranks(total, count, mean, variance)
        deviation = 1 / np.sqrt(variance + eps)
        scale = _numbers(weight) * deviation
        *factors, means, variances = wide.tiled(scale, _numbers(bias) - scale * mean, mean, variance)
        result = wide.scaled(seen, *factors)
        ctx.save_for_backward(value, weight)
        ctx.kept = wide, mean, deviation, means, variances, count, eps, total
        return wide.back(result), mean, variance, count

    @staticmethod
    @once_differentiable  # type: ignore[misc,no-untyped-call]
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        value, weight = ctx.saved_tensors
        wide, mean, deviation, means, variances, count, eps, total = ctx.kept
        if gradient.stride() != value.stride():
            gradient = torch.empty_like(value).copy_(gradient)
        seen, given = wide.of(value), wide.of(gradient)
        sums = torch.ops.aten.native_batch_norm_backward(
            given, seen, wide.ones, means, variances, None, None, False, eps, [False, True, True]
        )[1:]
        by_value, plain = (wide.summed(found.numpy()) for found in sums)
        own = (torch.from_numpy(found).to(weight.dtype) for found in (by_value, plain))
        if total is not None:
            by_value, plain = np.split(total(torch.from_numpy(np.concatenate([by_value, plain]))).numpy(), 2)
        scale = _numbers(weight) * deviation
        slope = scale * deviation * by_value / -count
        *factors, slopes = wide.tiled(scale, scale * plain / -count - slope * mean, slope)
        result = wide.scaled(given, *factors)
        result.addcmul_(seen, slopes.to(seen.dtype).view([1, -1] + [1] * (seen.dim() - 2)))
        return wide.back(result), *own, None, None, None


def _over_ranks(total: Total, count: float, mean: np.ndarray, variance: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Count, mean and variance of all."""
    sums = total(torch.from_numpy(np.concatenate([[count], count * mean, count * (variance + mean * mean)]))).numpy()
    mean, squares = np.split(sums[1:] / sums[0], 2)
    return float(sums[0]), mean, np.maximum(squares - mean * mean, 0.0)


def _numbers(vector: Tensor) -> np.ndarray:
    """As numpy has them."""
    found: np.ndarray = (vector.detach() if vector.dtype == torch.float32 else vector.detach().double()).numpy()
    return found
