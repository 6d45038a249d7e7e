"""Fingerprint of a run's inputs; resuming requires an exact match."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgeprune.budget import Budget
from edgeprune.decode import JsonObject, convert, unknown_field
from edgeprune.errors import BudgetError, RunError
from edgeprune.runs.document import read_inputs
from edgeprune.search.options import WHERE, Options
from edgeprune.task import Task

SETTINGS = (
    *("epochs", "learning_rate", "weight_decay", "distillation", "protect", "attention", "metric_name", "higher_is_better"),
    *("optimizer", "lr_schedule", "warmup", "clip_norm", "label_smoothing", "ema", "mixed_precision", "compile"),
    *("temperature", "distil_features"),
)
"""What a task sets that results depend on, beside its model and its data."""


Fingerprint = JsonObject
"""What a job was asked, in JSON's types."""


def fingerprint_of(task: Task, model: str, budget: Budget, options: Options, asked: Mapping[str, object]) -> Fingerprint:
    """Fingerprint of a run's inputs.  ``model``: hash of its structure and weights. ``asked``: the target, the profile, the recipe
    or model file."""
    given = {"task": task.name, "budget": asdict(budget), "options": _how(options), **asked}
    task_is = {"model": model, "settings": {name: getattr(task, name) for name in SETTINGS}}
    plain: Fingerprint = json.loads(json.dumps(given | task_is, default=_plain))
    return plain


@dataclass(frozen=True)
class Asked:
    """What a run was asked, read back from its ``run.json``."""

    budget: Budget
    options: Options
    target: str | None
    profile: str | None
    recipe: str | None
    source: JsonObject | None = None


@dataclass(frozen=True)
class _Rest:
    """What :class:`Asked` holds in JSON's own types."""

    target: str | None
    profile: str | None
    recipe: str | None
    source: JsonObject | None = None


def asked_of(path: Path) -> Asked:
    """What the run at ``path`` was asked.  Raises :class:`RunError` when it is damaged, or has options that this version does not know."""
    inputs = read_inputs(path)
    try:
        options = convert(inputs.get("options"), JsonObject)
        if unknown := unknown_field(options, Options):
            raise ValueError(f"it has the unknown option {unknown}")
        rest = convert(inputs, _Rest)
        budget = Budget(**convert(inputs.get("budget"), dict[str, Any]))
        return Asked(budget, convert(options, Options), rest.target, rest.profile, rest.recipe, rest.source)
    except (ValueError, TypeError, BudgetError) as error:
        raise RunError(f"{path} was made by another edgeprune, or its run.json is damaged: {error}", remedy="Start a new run.") from error


def _how(options: Options) -> JsonObject:
    """All but where it computes; the device's default accelerator is not mentioned, as in runs before there were others."""
    found = {name: value for name, value in asdict(options).items() if name not in WHERE}
    if found["accelerator"] is None:
        del found["accelerator"]
    return found


def _plain(value: Any) -> object:
    """A function by its name; a sequence as a list."""
    if callable(value):
        return f"{value.__module__}.{getattr(value, '__qualname__', type(value).__name__)}"
    return list(value)


def refuse_another(path: Path, known: Mapping[str, object], inputs: Mapping[str, object]) -> None:
    """Raise :class:`RunError`, naming what differs, when the run at ``path`` was asked something else than ``inputs``.  An option that its
    version did not have is as it is by default."""
    was = dict(known)
    if isinstance(options := known.get("options"), dict):
        was["options"] = json.loads(json.dumps(_how(Options()))) | options
    changed = [name for name, value in inputs.items() if was.get(name) != value]
    if not changed:
        return
    remedy = "Start a new run, or give the same inputs."
    if "model" in changed:
        remedy += " A recipe that makes random weights or modules must seed them: torch.manual_seed(0)."
    raise RunError(f"{path} was started with other settings: {', '.join(changed)} differ", remedy=remedy)


def digest_of(model: nn.Module) -> str:
    """Of the modules, their settings, and all parameters and buffers."""
    digest = hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", repr(model)).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        if isinstance(value, Tensor):
            digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
