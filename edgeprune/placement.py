"""Where the host computes: which device a name means, and models, graphs and values brought there.  Nothing else decides on devices."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from edgeprune.errors import InputError

CPU = torch.device("cpu")

_FORMS = "auto, cpu, cpu:2 (two processes), cuda, cuda:1, cuda:0,cuda:1 (one process each), mps"


@dataclass(frozen=True)
class Placement:
    """``devices``: one for every process (rank) of a tuning; all else runs on the first. ``asked``: the name."""

    asked: str
    devices: tuple[torch.device, ...]

    @property
    def device(self) -> torch.device:
        """Where one process computes."""
        return self.devices[0]

    @property
    def ranks(self) -> int:
        """How many processes share a tuning."""
        return len(self.devices)

    @property
    def text(self) -> str:
        """What a log says."""
        return ", ".join(map(_described, self.devices[:1])) if self.ranks == 1 else f"{self.ranks} processes on {_together(self.devices)}"


def resolve(name: str) -> Placement:
    """The devices that ``name`` means on this machine; "auto" is the best there is: an accelerator that PyTorch can use, else the CPU.

    Raises :class:`InputError` for a name that is not one, and for devices that this machine, or this build of PyTorch, does not have.
    """
    if name == "auto":
        return Placement(name, (_best(),))
    if match := re.fullmatch(r"cpu:(\d+)", name):
        if not 1 <= int(match[1]) <= 64:
            raise InputError(f"device {name}: from 1 to 64 processes can share a tuning on the CPU")
        return Placement(name, (CPU,) * int(match[1]))
    devices = tuple(_device(part.strip(), name) for part in name.split(","))
    if len(devices) > 1 and (len(set(devices)) < len(devices) or {device.type for device in devices} != {"cuda"}):
        raise InputError(f"device {name}: several devices must be different CUDA devices", remedy=f"Known: {_FORMS}.")
    return Placement(name, devices)


def _best() -> torch.device:
    found = torch.accelerator.current_accelerator(check_available=True)
    if found is None or found.type not in ("cuda", "mps", "xpu"):
        return CPU
    return torch.device(found.type, 0) if found.type != "mps" else torch.device("mps")


def _device(part: str, name: str) -> torch.device:
    match = re.fullmatch(r"(cpu|cuda|mps|xpu)(?::(\d+))?", part)
    if match is None or (match[2] and match[1] in ("cpu", "mps")):
        raise InputError(f"unknown device {name!r}", remedy=f"Known: {_FORMS}.")
    kind = match[1]
    if kind == "cpu":
        return CPU
    count = _count(kind)
    if not count:
        why = "this build of PyTorch has none" if not _built(kind) else "PyTorch finds none on this machine"
        raise InputError(f"device {name} was asked for, and {why} of kind {kind}", remedy="Use --device auto, or --device cpu.")
    index = int(match[2] or 0)
    if index >= count:
        there = f"{kind}:0" + (f" to {kind}:{count - 1}" if count > 1 else "")
        raise InputError(f"device {name} was asked for, and this machine has {there}", remedy="Use one of these, or --device auto.")
    return torch.device(kind) if kind == "mps" else torch.device(kind, index)


def _count(kind: str) -> int:
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    module = getattr(torch, kind, None)
    return int(module.device_count()) if module is not None and module.is_available() else 0


def _built(kind: str) -> bool:
    if kind == "cuda":
        return torch.version.cuda is not None or torch.version.hip is not None
    return bool(torch.backends.mps.is_built()) if kind == "mps" else bool(getattr(torch.version, kind, None))


def _described(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return "the CPU" if device.type == "cpu" else str(device)


def _together(devices: tuple[torch.device, ...]) -> str:
    return "the CPU" if devices[0].type == "cpu" else ", ".join(map(str, devices))


def device_of(model: nn.Module) -> torch.device:
    """Where the weights of ``model`` are; the CPU for a model without any."""
    for value in (*model.parameters(), *model.buffers()):
        return value.device
    return CPU


def to_device(value: Any, device: torch.device) -> Any:
    """``value``, nested tensors, on ``device``; from pinned memory without waiting."""
    return pytree.tree_map_only(Tensor, lambda tensor: tensor.to(device, non_blocking=device.type != "cpu"), value)


def to_cpu(value: Any) -> Any:
    """``value``, nested tensors, on the CPU."""
    return pytree.tree_map_only(Tensor, lambda tensor: tensor.to(CPU), value)


def wide(value: Tensor) -> Tensor:
    """``value`` in float64; on the CPU where its device has none."""
    return value.cpu().double() if value.device.type == "mps" else value.double()


@contextmanager
def placed(device: torch.device, *models: nn.Module | None) -> Iterator[None]:
    """Hold ``models`` on ``device`` inside and bring each back to where it was; parameters stay the same objects."""
    homes = [(model, device_of(model)) for model in models if model is not None]
    try:
        for model, home in homes:
            if home != device:
                move(model, device)
        yield
    finally:
        for model, home in homes:
            if device_of(model) != home:
                move(model, home)


def move(model: nn.Module, device: torch.device) -> None:
    """Bring ``model`` to ``device``, in place: weights, buffers, gradients, and what the graphs in it create."""
    for module in model.modules():
        if graphs_of(module):
            _redirect(module, device)
    model.to(device)


def _redirect(module: nn.Module, device: torch.device) -> None:
    """Let a graph create its tensors on ``device``: where it was captured is written into it."""
    changed = False
    for graph in graphs_of(module):
        for node in graph.nodes:
            if node.kwargs.get("device") not in (None, device):
                node.kwargs = {**node.kwargs, "device": device}
                changed = True
    for name, value in list(vars(module).items()):
        if isinstance(value, Tensor):
            setattr(module, name, value.to(device))
    if changed:
        module.recompile()  # type: ignore[operator]


def graphs_of(module: nn.Module) -> list[fx.Graph]:
    """The graphs that a module runs; none where it is code."""
    return [value for value in vars(module).values() if isinstance(value, fx.Graph)]


class PlacedInterpreter(fx.Interpreter):
    """Runs a graph that was captured on the CPU on ``device``, and leaves the graph as it is."""

    def __init__(self, module: fx.GraphModule, device: torch.device) -> None:
        super().__init__(module)
        self.device = device

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """A function of the graph; what it creates is on the device."""
        if kwargs.get("device") is not None:
            kwargs = {**kwargs, "device": self.device}
        return super().call_function(target, args, kwargs)

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """A constant of the graph, on the device."""
        value = super().get_attr(target, args, kwargs)
        return value.to(self.device) if isinstance(value, Tensor) else value
