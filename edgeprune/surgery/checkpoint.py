"""Pruned models on disk: one safetensors file that holds the weights and, in its header, the plan."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from edgeprune.batches import Inputs
from edgeprune.decode import convert
from edgeprune.errors import CheckpointError, EdgepruneError
from edgeprune.files import parse_json, write_atomically
from edgeprune.graph import Analysis, analyze
from edgeprune.surgery.apply import Mode, Pruned, apply
from edgeprune.surgery.plan import Plan

VERSION = "1"


@dataclass(frozen=True)
class _Header:
    """What the file's header says.  ``inputs``, ``protect``: JSON."""

    plan: str
    mode: Mode
    inputs: str
    attention: Literal["heads", "dimensions"]
    protect: str


def save(path: str | Path, pruned: Pruned, analysis: Analysis, example_inputs: Inputs, protect: tuple[str, ...] = ()) -> Path:
    """Write ``pruned`` (with its present weights) to ``path``: temporary name first, then renamed.  ``example_inputs`` and ``protect``: as
    given to :func:`edgeprune.graph.analyze`.  Raises :class:`CheckpointError` when it cannot be written."""
    path = Path(path)
    header = {
        "edgeprune": VERSION,
        "plan": pruned.plan.to_json(),
        "mode": pruned.mode,
        "inputs": json.dumps(_described(example_inputs)),
        "attention": "heads" if analysis.flow.whole_heads else "dimensions",
        "protect": json.dumps(list(protect)),
    }
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in pruned.model.state_dict().items()}
    write_tensors(path, tensors, header)
    return path


def write_tensors(path: Path, tensors: dict[str, Tensor], header: dict[str, str]) -> None:
    """Write a safetensors file, whole or not at all.  Raises :class:`CheckpointError` when it cannot be written."""
    try:
        write_atomically(path, to_bytes(tensors, metadata=header))
    except OSError as error:
        raise CheckpointError(
            f"checkpoint {path} cannot be written: {error.strerror or error}", remedy="Free some space there, or make it writable."
        ) from error


def load(model: nn.Module, path: str | Path) -> nn.Module:
    """The pruned model in ``path``, made from ``model``: the user's dense model as its constructor gives it (any weights).

    Returns a new model in eval mode. Raises :class:`CheckpointError` when the file is damaged or was made from another structure.
    """
    header, tensors = _read(Path(path))
    try:
        known = convert(header, _Header)
        inputs = _example(parse_json(known.inputs))
        inputs = tuple(inputs) if isinstance(inputs, list) else inputs
        analysis = analyze(model, inputs, parse_json(known.protect), known.attention)
        pruned = apply(model, analysis, Plan.from_json(known.plan), known.mode)
        pruned.model.load_state_dict(tensors)
    except (LookupError, TypeError, AttributeError, ValueError, RuntimeError, EdgepruneError) as error:
        raise CheckpointError(
            f"checkpoint {path} does not fit this model: {error}", remedy="Give the same dense model that was pruned."
        ) from error
    return pruned.model.eval()


def require_checkpoint(path: Path) -> None:
    """Raise :class:`CheckpointError` when ``path`` is not a pruned model's checkpoint: before work that needs it begins."""
    _read(path)


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist", remedy="Give the path of the model.safetensors of a run.")
    try:
        with safe_open(path, framework="pt") as file:
            header = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {error}") from error
    if header.get("edgeprune") != VERSION:
        raise CheckpointError(f"{path} is not an edgeprune checkpoint of version {VERSION}")
    return header, tensors


def _described(value: Any) -> Any:
    """An example input as JSON: the shape and kind of its tensors, in lists and dicts as they are nested."""
    if isinstance(value, Tensor):
        return {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, (list, tuple)):
        return [_described(item) for item in value]
    return {"items": {name: _described(item) for name, item in value.items()}} if isinstance(value, dict) else {"value": value}


def _example(described: Any) -> Any:
    if isinstance(described, list):
        return [_example(item) for item in described]
    if "items" in described:
        return {name: _example(item) for name, item in described["items"].items()}
    if "value" in described:
        return described["value"]
    kind = getattr(torch, described["dtype"])
    return torch.randn(described["shape"]).to(kind) if kind.is_floating_point else torch.zeros(described["shape"], dtype=kind)
