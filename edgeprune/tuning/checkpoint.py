"""The state of a fine-tuning between two epochs, in one safetensors file written atomically."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from edgeprune.decode import convert
from edgeprune.errors import CheckpointError
from edgeprune.files import parse_json, write_atomically

_KEY = "edgeprune.tuning"
_MOMENTUM, _BUFFER = "momentum/", "momentum_buffer"


@dataclass
class Progress:
    """How far a fine-tuning is: ``epochs`` and optimizer ``steps`` done, and their ``history``.

    ``settings`` identify the job; a checkpoint is continued only under the same ones.
    """

    settings: dict[str, Any]
    epochs: int = 0
    steps: int = 0
    history: list[dict[str, float | None]] = field(default_factory=list)
    optimizer: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By parameter what the optimizer keeps of it that is not a tensor: filled in when it is saved."""


def save_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    progress: Progress,
    average: Mapping[str, Tensor] | None = None,
) -> None:
    """Write the model's state, what the optimizer keeps, ``progress`` and the ``average`` of the weights, by name, to ``path``: whole, or
    not at all.  No tensor in it remembers a device.

    Raises :class:`CheckpointError` when it cannot be written.
    """
    tensors = {f"model/{name}": value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    tensors |= {f"average/{name}": value for name, value in (average or {}).items()}
    progress.optimizer = {}
    if optimizer is not None:
        for name, parameter in model.named_parameters():
            for key, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    tensors[f"{_MOMENTUM if key == _BUFFER else f'optimizer/{key}/'}{name}"] = value
                elif value is not None:
                    progress.optimizer.setdefault(name, {})[key] = value
    owned = {name: _owned(value) for name, value in tensors.items()}
    try:
        data = save(owned, metadata={_KEY: json.dumps(asdict(progress))})
    except TypeError as error:
        raise CheckpointError(
            f"the state of {type(optimizer).__name__} cannot be kept in a checkpoint: {error}",
            remedy="Use an optimizer that keeps tensors and numbers for every parameter.",
        ) from error
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
    except OSError as error:
        raise CheckpointError(
            f"checkpoint {path} cannot be written: {error.strerror or error}", remedy="Free some space there, then continue the run."
        ) from error


def _owned(value: Tensor) -> Tensor:
    """A copy on the CPU that shares no memory."""
    return value.detach().to("cpu").clone(memory_format=torch.contiguous_format)


def load_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    settings: dict[str, Any],
    average: Mapping[str, Tensor] | None = None,
) -> Progress | None:
    """Bring ``model``, ``optimizer`` and ``average`` (by name), wherever they are, to the state in ``path`` and return how far it is;
    ``None`` when there is no such file.

    Raises :class:`CheckpointError` when the file is damaged, or of another model or other ``settings``; nothing is changed then.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            progress = convert(parse_json((file.metadata() or {})[_KEY]), Progress)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint {path} is damaged, or not a fine-tuning checkpoint", remedy="Delete it to start over."
        ) from error
    _check_settings(path, progress.settings, settings)
    state = _part(tensors, "model/")
    _check_model(path, model, state)
    model.load_state_dict(state, strict=False)
    if optimizer is not None:
        _restore(optimizer, model, tensors, progress)
    with torch.no_grad():
        for name, value in _part(tensors, "average/").items():
            if average is not None:
                average[name].copy_(value)
    return progress


def _restore(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: dict[str, Tensor], progress: Progress) -> None:
    names = dict(model.named_parameters())
    for name, value in _part(tensors, _MOMENTUM).items():
        optimizer.state[names[name]][_BUFFER] = _placed(value, names[name], _BUFFER)
    for place, value in _part(tensors, "optimizer/").items():
        key, _, name = place.partition("/")
        optimizer.state[names[name]][key] = _placed(value, names[name], key)
    for name, kept in progress.optimizer.items():
        optimizer.state[names[name]].update(kept)
    progress.optimizer = {}


def _placed(value: Tensor, parameter: Tensor, key: str) -> Tensor:
    """What an optimizer keeps of ``parameter``, where and as it is stored; counts of steps stay on the CPU."""
    if value.shape == parameter.shape and value.dim():
        return torch.empty_like(parameter, dtype=value.dtype).copy_(value)
    return value if key == "step" else value.to(parameter.device)


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _check_settings(path: Path, saved: dict[str, Any], wanted: dict[str, Any]) -> None:
    for name, value in wanted.items():
        if saved.get(name) != value:
            raise CheckpointError(
                f"checkpoint {path} belongs to another fine-tuning: its {name} is {saved.get(name)!r}, not {value!r}",
                remedy="Delete it to start over, or use the same settings.",
            )


def _check_model(path: Path, model: nn.Module, state: dict[str, Tensor]) -> None:
    own = {name: tuple(value.shape) for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    for name in sorted(own.keys() | state.keys()):
        saved = tuple(state[name].shape) if name in state else None
        if saved != own.get(name):
            raise CheckpointError(
                f"checkpoint {path} belongs to another model: {name} has shape {saved} there and {own.get(name)} here",
                remedy="Delete it to start over.",
            )
