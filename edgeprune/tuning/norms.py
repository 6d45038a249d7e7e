"""Batch norm of a training step on the CPU: several pixels at a time, and over all ranks of a tuning."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

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

    def __call__(self, value: Tensor) -> Tensor:
        module, dense = self.module, value.device.type == "cpu" and value.is_floating_point()
        few = value.dim() < 2 or value.numel() <= value.shape[1] or value.shape[1] != module.num_features
        if not module.training or not dense or few or value.dtype == torch.float64:
            return type(module).forward(module, value)
        module._check_input_dim(value)  # type: ignore[no-untyped-call]
        weight = module.weight if module.weight is not None else torch.ones(module.num_features)
        bias = module.bias if module.bias is not None else torch.zeros(module.num_features)
        total = self.total if torch.is_grad_enabled() else None  # statistics that are measured again see all batches in every rank
        result, mean, variance, count = _Normalize.apply(value, weight, bias, module.eps, total)  # type: ignore[no-untyped-call]
        if module.track_running_stats:
            _track(module, mean, variance, int(count))
        return result  # type: ignore[no-any-return]


@torch.no_grad()
def _track(module: _BatchNorm, mean: Tensor, variance: Tensor, count: int) -> None:
    """Update the running statistics, as PyTorch does."""
    assert module.running_mean is not None
    assert module.running_var is not None
    share = module.momentum
    if module.num_batches_tracked is not None:
        module.num_batches_tracked.add_(1)
        share = 1.0 / float(module.num_batches_tracked) if share is None else share
    module.running_mean.lerp_(mean.to(module.running_mean.dtype), share or 0.0)
    module.running_var.lerp_((variance * (count / (count - 1))).to(module.running_var.dtype), share or 0.0)


class _Wide:
    """A tensor seen as rows of several pixels' channels: ``repeat`` pixels in a row."""

    def __init__(self, value: Tensor) -> None:
        channels, pixels = value.shape[1], value.numel() // value.shape[1]
        innermost = value.dim() == 2 and value.is_contiguous()
        innermost |= value.dim() == 4 and value.is_contiguous(memory_format=torch.channels_last)
        self.repeat, self._shape, self._strides = 1, value.shape, value.stride()
        self._grid: tuple[int, ...] | None = None
        if innermost:
            self.repeat = next(k for k in (64, 32, 16, 8, 4, 2, 1) if pixels % k == 0 and (k * channels <= WIDEST or k == 1))
            self._grid = (1, self.repeat * channels, pixels // self.repeat, 1)

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

    def tiled(self, vector: Tensor) -> Tensor:
        """One number a channel, for every pixel of a row."""
        return vector.repeat(self.repeat) if self.repeat > 1 else vector

    def joined(self, vector: Tensor) -> Tensor:
        """What a row holds of every channel: (pixels of a row, channels)."""
        return vector.view(self.repeat, -1)

    def scaled(self, value: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """``value * scale + shift`` of a view, with one number a channel."""
        zero, one = torch.zeros_like(scale), torch.ones_like(scale)
        parts = (self.tiled(part) for part in (scale, shift, zero, one))
        return torch.ops.aten.native_batch_norm(value, *parts, False, 0.0, 0.0)[0]  # type: ignore[no-any-return]


class _Normalize(torch.autograd.Function):
    """``(normalised, mean, variance, count)`` of a batch."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, weight: Tensor, bias: Tensor, eps: float, total: Total | None) -> tuple[Tensor, ...]:
        wide = _Wide(value)
        seen, width = wide.of(value), wide.repeat * value.shape[1]
        means, variances = torch.ops.aten.batch_norm_update_stats(seen, torch.zeros(width), torch.ones(width), 0.0)
        means, variances = wide.joined(means).double(), wide.joined(variances).double()
        mean = means.mean(0)
        variance = variances.mean(0) + means.var(0, unbiased=False)
        count = torch.tensor(float(value.numel() // value.shape[1]), dtype=torch.float64)
        if total is not None:
            sums = total(torch.cat([count[None], count * mean, count * (variance + mean.square())]))
            count, mean, squares = sums[0], *(part / sums[0] for part in sums[1:].chunk(2))
            variance = (squares - mean.square()).clamp(min=0)
        scale = weight.detach().double() * (variance + eps).rsqrt()
        result = wide.scaled(seen, scale.float(), (bias.detach().double() - scale * mean).float())
        ctx.save_for_backward(value, weight, mean, variance)
        ctx.wide, ctx.eps, ctx.total, ctx.count = wide, eps, total, count
        ctx.mark_non_differentiable(mean, variance, count)
        return wide.back(result), mean, variance, count

    @staticmethod
    @once_differentiable  # type: ignore[misc,no-untyped-call]
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        value, weight, mean, variance = ctx.saved_tensors
        wide, deviation = ctx.wide, (variance + ctx.eps).rsqrt()
        if gradient.stride() != value.stride():
            gradient = torch.empty_like(value).copy_(gradient)
        seen, given = wide.of(value), wide.of(gradient)
        ones, tiled = torch.ones(wide.repeat * value.shape[1]), (wide.tiled(mean.float()), wide.tiled(variance.float()))
        _, by_value, plain = torch.ops.aten.native_batch_norm_backward(
            given, seen, ones, *tiled, None, None, False, ctx.eps, [False, True, True]
        )
        by_value, plain = wide.joined(by_value).double().sum(0), wide.joined(plain).double().sum(0)
        own = by_value.to(weight.dtype), plain.to(weight.dtype)
        if ctx.total is not None:
            by_value, plain = ctx.total(torch.cat([by_value, plain])).chunk(2)
        scale = weight.detach().double() * deviation
        slope = -scale * deviation * by_value / ctx.count
        shift = -scale * plain / ctx.count - slope * mean
        result = wide.scaled(given, scale.float(), shift.float())
        shape = [1, -1] + [1] * (seen.dim() - 2)
        result.addcmul_(seen, wide.tiled(slope).to(seen.dtype).view(shape))
        return wide.back(result), *own, None, None
