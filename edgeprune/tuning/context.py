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
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


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


def autocast(wanted: bool) -> AbstractContextManager[Any]:
    """bfloat16 autocast when ``wanted``, else nothing."""
    return torch.autocast("cpu", dtype=torch.bfloat16) if wanted else nullcontext()


def as_float32(outputs: Any) -> Any:
    """A model's outputs, of whatever structure, with bfloat16 tensors widened: losses are computed in float32."""
    return pytree.tree_map(lambda value: value.float() if isinstance(value, Tensor) and value.dtype == torch.bfloat16 else value, outputs)
