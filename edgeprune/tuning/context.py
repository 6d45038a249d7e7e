"""What training borrows and gives back: random states, module modes, precision."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

# what multiplies bfloat16 in hardware: x86 AVX512-BF16, AMX, AVX10; Arm FEAT_BF16; named as torch.cpu.get_capabilities does
_BF16_FEATURES = ("avx512_bf16", "amx_bf16", "avx10_1", "bf16")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's, numpy's and Python's global generators inside, so that shuffles and dropout repeat; restore them after."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]), _accelerator_forked(seed):
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


@contextmanager
def _accelerator_forked(seed: int) -> Iterator[None]:
    """The same for the generators of CUDA and Metal, once they are in use."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        kind, devices = "cuda", list(range(torch.cuda.device_count()))
    elif torch.backends.mps.is_available():
        kind, devices = "mps", [0]
    else:
        yield
        return
    with torch.random.fork_rng(devices, device_type=kind):
        (torch.cuda.manual_seed_all if kind == "cuda" else torch.mps.manual_seed)(seed)
        yield


@contextmanager
def preserved_modes(model: nn.Module) -> Iterator[None]:
    """Restore every module's training flag after."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def is_image(value: Any) -> bool:
    """Whether ``value`` is a batch of images: a 4-D floating tensor."""
    return isinstance(value, Tensor) and value.dim() == 4 and value.is_floating_point()


@cache
def native_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware; emulated it is slower than float32."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(bool(capabilities.get(feature)) for feature in _BF16_FEATURES)


def reduced_precision(device: torch.device, images: bool) -> torch.dtype | None:
    """What models train in on ``device``: bfloat16 where it multiplies that natively (a CPU only with ``images``), else float16 on CUDA;
    None is float32."""
    if device.type == "cpu":
        return torch.bfloat16 if images and native_bf16() else None
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return None


def autocast(dtype: torch.dtype | None, device: torch.device) -> AbstractContextManager[Any]:
    """Autocast to ``dtype`` on ``device``; nothing without one."""
    return torch.autocast(device.type, dtype=dtype) if dtype is not None else nullcontext()


def as_float32(outputs: Any) -> Any:
    """A model's outputs, of whatever structure, with half-precision tensors widened: losses are computed in float32."""
    return pytree.tree_map_only(Tensor, lambda value: value.float() if value.dtype in (torch.bfloat16, torch.float16) else value, outputs)
