"""The state of a fine-tuning between two epochs, in one safetensors file written atomically."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from edgeprune.errors import CheckpointError
from edgeprune.files import parse_json, write_atomically

_KEY = "edgeprune.tuning"


@dataclass
class Progress:
    """How far a fine-tuning is: ``epochs`` and optimizer ``steps`` done, and their ``history``.

    ``settings`` identify the job; a checkpoint is continued only under the same ones.
    """

    settings: dict[str, Any]
    epochs: int = 0
    steps: int = 0
    history: list[dict[str, float | None]] = field(default_factory=list)


def save_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None, progress: Progress) -> None:
    """Write the model's state, the optimizer's momenta and ``progress`` to ``path``: whole, or not at all.

    Raises :class:`CheckpointError` when it cannot be written.
    """
    tensors = {f"model/{name}": value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    if optimizer is not None:
        for name, parameter in model.named_parameters():
            momentum = optimizer.state.get(parameter, {}).get("momentum_buffer")
            if momentum is not None:
                tensors[f"momentum/{name}"] = momentum
    owned = {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}  # none shares memory
    data = save(owned, metadata={_KEY: json.dumps(asdict(progress))})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
    except OSError as error:
        raise CheckpointError(
            f"checkpoint {path} cannot be written: {error.strerror or error}", remedy="Free some space there, then --resume."
        ) from error


def load_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None, settings: dict[str, Any]) -> Progress | None:
    """Bring ``model`` and ``optimizer`` to the state in ``path`` and return how far it is; ``None`` when there is no such file.

    Raises :class:`CheckpointError` when the file is damaged, or of another model or other ``settings``; nothing is changed then.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            progress = Progress(**parse_json((file.metadata() or {})[_KEY]))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint {path} is damaged, or not a fine-tuning checkpoint", remedy="Delete it to start over."
        ) from error
    _check_settings(path, progress.settings, settings)
    state = _part(tensors, "model/")
    _check_model(path, model, state)
    model.load_state_dict(state, strict=False)
    momenta = _part(tensors, "momentum/")
    if optimizer is not None:
        for name, parameter in model.named_parameters():
            if name in momenta:
                optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(momenta[name])
    return progress


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
