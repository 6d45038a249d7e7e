"""What ``accelerate`` does in a training step: mixed precision, scaled gradients, several processes as one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn

_NAMES: Final = {None: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}


_LAUNCHED: Final = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""What a launcher of several processes sets, which ``accelerate`` would then wait for: a tuning here is not part of these."""


class Engine:
    """Computes gradients and steps on one device, or as one of several ranks; see :func:`engine`."""

    def __init__(self, accelerator: Any, dtype: torch.dtype | None) -> None:
        self._accelerator, self.dtype = accelerator, dtype
        self._optimizer: Any = None

    @property
    def ranks(self) -> int:
        """How many processes train the model together."""
        return int(self._accelerator.num_processes)

    @property
    def rank(self) -> int:
        """Which of them this one is."""
        return int(self._accelerator.process_index)

    def mean(self, values: Tensor) -> Tensor:
        """The mean of ``values`` over all ranks."""
        if self.ranks == 1:
            return values
        return summed(values) / self.ranks

    @property
    def scales(self) -> bool:
        """Whether gradients are scaled, so that a step may be left out where they overflow."""
        return self._accelerator.scaler is not None

    def prepare(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> nn.Module:
        """Get ready to train ``model``; returns what is called in its place."""
        self._optimizer = self._accelerator.prepare_optimizer(optimizer, device_placement=False)
        if self.ranks == 1:
            return model
        from torch.nn.parallel import DistributedDataParallel

        device = next(model.parameters()).device
        places = None if device.type == "cpu" else [device]
        return DistributedDataParallel(model, device_ids=places, find_unused_parameters=True, broadcast_buffers=False)

    def autocast(self) -> Any:
        """The training's precision."""
        return self._accelerator.autocast()

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of ``loss``."""
        self._accelerator.backward(loss)

    def clip(self, parameters: list[nn.Parameter], norm: float) -> Tensor:
        """Clip the gradients to ``norm`` together (0: not at all), and return the norm that they had."""
        if self.scales:
            self._accelerator.unscale_gradients(self._optimizer)
        found = [parameter.grad for parameter in parameters if parameter.grad is not None]
        total: Tensor = torch.nn.utils.get_total_norm(found)
        if norm:
            torch.nn.utils.clip_grads_with_norm_(parameters, norm, total)
        return total

    def step(self) -> None:
        """The optimizer's step."""
        self._optimizer.step()


def summed(values: Tensor) -> Tensor:
    """The sum of ``values`` over all ranks of ``torch.distributed``."""
    total = values.clone()
    torch.distributed.all_reduce(total)
    return total


def shared() -> bool:
    """Whether this process is one of several ranks."""
    return torch.distributed.is_available() and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1


@contextmanager
def engine(device: torch.device, dtype: torch.dtype | None) -> Iterator[Engine]:
    """An engine for ``device`` in this process; ranks are those of ``torch.distributed``, where it is initialised.

    ``accelerate`` keeps its state for the whole process: inside it is this engine's, afterwards again what the caller made of it.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState, PartialState

    states = [kind._shared_state for kind in (PartialState, AcceleratorState, GradientState)]
    kept = [dict(state) for state in states]
    environment = {name: os.environ.get(name) for name in ("ACCELERATE_TORCH_DEVICE", *(() if shared() else _LAUNCHED))}
    try:
        for state in states:
            state.clear()
        for name in environment:
            os.environ.pop(name, None)
        os.environ["ACCELERATE_TORCH_DEVICE"] = str(device)
        yield Engine(Accelerator(cpu=device.type == "cpu", mixed_precision=_NAMES[dtype], device_placement=False), dtype)
    finally:
        os.environ.pop("ACCELERATE_TORCH_DEVICE", None)
        os.environ.update({name: value for name, value in environment.items() if value is not None})
        for state, before in zip(states, kept, strict=True):
            state.clear()
            state.update(before)
