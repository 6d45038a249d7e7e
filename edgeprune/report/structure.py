"""What may be pruned in a model, in numbers and names."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import torch
from torch import nn

from edgeprune.errors import GraphError
from edgeprune.graph import Analysis, Block, Group
from edgeprune.graph.training import Training
from edgeprune.importance.redundancy import redundancy
from edgeprune.task import Task


def owned_elements(analysis: Analysis, model: nn.Module, channels: np.ndarray) -> dict[str, int]:
    """For every parameter of ``model`` with some, the number of its elements that go with ``channels`` (a truth value for each channel).

    An element goes when any of the channels it stands in goes, whether it produces or reads it.
    """
    known = dict(model.named_parameters(remove_duplicate=False))
    masks: dict[str, torch.Tensor] = {}
    for (name, _), labels in analysis.flow.owners.items():
        if name in known:
            mask = torch.from_numpy(np.asarray(channels[analysis.channels_of(labels).numpy()]))
            if bool(mask.any()):
                masks[name] = masks[name] | mask if name in masks else mask
    return {name: int(mask.sum()) * (known[name].numel() // mask.numel()) for name, mask in masks.items()}


class GroupEntry(TypedDict):
    """A group: its ``rows`` keep equally many of their ``units``; ``share`` of the model's parameters goes with its channels."""

    name: str
    rows: int
    units: int
    channels: int
    parameters: int
    share: float
    producers: list[str]
    readers: list[str]
    constraints: list[str]
    block: str | None


class StoredEntry(TypedDict):
    """A parameter or buffer of a group, and how many of its elements go with the group; ``role``: ``produces`` or ``reads``."""

    name: str
    role: str
    shape: list[int] | None
    owned: int


class GroupDetail(GroupEntry):
    """A group in full."""

    stored: list[StoredEntry]


class BlockEntry(TypedDict):
    """A block that can be removed."""

    name: str
    groups: list[str]
    parameters: int
    share: float
    redundancy: float | None


class FixedEntry(TypedDict):
    """How many channels stay for one reason."""

    reason: str
    channels: int


class UnsupportedEntry(TypedDict):
    """A node whose operation has no rule."""

    node: str
    operation: str


class TrainingEntry(TypedDict):
    """What acts in training only."""

    layers: list[str]
    outputs: int
    why: str | None


class OutputsEntry(TypedDict):
    """How many channels layers make, and how many of them may go."""

    channels: int
    free: int


class Structure(TypedDict):
    """What :func:`describe` tells."""

    model: str
    parameters: int
    prunable: float
    outputs: OutputsEntry
    groups: list[GroupEntry]
    blocks: list[BlockEntry]
    fixed: list[FixedEntry]
    unsupported: list[UnsupportedEntry]
    training: TrainingEntry | None
    parts: list[str]
    whole: str | None


def describe(analysis: Analysis, task: Task) -> Structure:
    """Groups, removable blocks, what is fixed and why, and operations without a rule, in numbers and names.

    ``parameters``: elements of the model's parameters; ``share``: the part of them that a group, a block or (``prunable``) any group owns.
    ``outputs``: how many channels layers make, and how many of them may go (a layer whose inputs may go is owned though its outputs stay).
    ``redundancy``: mean cosine similarity of what goes into a block and what comes out (1: it changes nothing), on a few training batches.
    ``training``: what acts in training only (``layers``), and ``why`` it could not be captured; null where it is only dropout.
    ``parts``: the submodules that were followed where the model could not be captured ``whole``, for the reason given there.
    """
    captured, model = analysis.captured, task.model
    redundant = redundancy(task, analysis) if analysis.blocks and not captured.parts else {}
    total = sum(value.numel() for value in model.parameters())
    every = np.zeros(len(analysis.roots), bool)
    for group in analysis.groups:
        every[group.rows] = True
    return {
        "model": task.name,
        "parameters": total,
        "prunable": sum(owned_elements(analysis, model, every).values()) / max(total, 1),
        "outputs": _outputs(analysis, every),
        "groups": [_group(analysis, model, group, total) for group in analysis.groups],
        "blocks": [_block(model, block, total, redundant.get(block.name)) for block in analysis.blocks],
        "fixed": [{"reason": reason, "channels": count} for reason, count in Counter(analysis.fixed.values()).most_common()],
        "unsupported": [{"node": node, "operation": operation} for node, operation in analysis.unsupported],
        "training": None if captured.training is None else _training(captured.training),
        "parts": [part.name for part in captured.parts],
        "whole": captured.whole.message if captured.whole else None,
    }


def _outputs(analysis: Analysis, free: np.ndarray) -> OutputsEntry:
    """How many channels begin in the model's layers, channels that go together counted once, and how many are ``free``."""
    begun = np.zeros(len(analysis.roots), bool)
    for owner in analysis.flow.producing:
        begun[analysis.channels_of(analysis.flow.owners[owner]).numpy()] = True
    begun[0] = False
    return {"channels": int(begun.sum()), "free": int((begun & free).sum())}


def _training(training: Training) -> TrainingEntry:
    return {"layers": list(training.layers), "outputs": training.outputs, "why": training.why or None}


def detail(analysis: Analysis, model: nn.Module, group: Group) -> GroupDetail:
    """One group in full: as in :func:`describe`, and for every parameter its shape, the elements it loses with the group, and whether the
    channels begin in it."""
    total = sum(value.numel() for value in model.parameters())
    owned = owned_elements(analysis, model, np.isin(np.arange(len(analysis.roots)), group.rows))
    shapes = {name: list(value.shape) for name, value in model.state_dict(keep_vars=True).items()}
    stored: list[StoredEntry] = [
        {"name": name, "role": role, "shape": shapes.get(name), "owned": owned.get(name, 0)}
        for role, names in (("produces", group.producers), ("reads", group.readers))
        for name in names
    ]
    return {**_group(analysis, model, group, total), "stored": stored}


def _group(analysis: Analysis, model: nn.Module, group: Group, total: int) -> GroupEntry:
    chosen = np.zeros(len(analysis.roots), bool)
    chosen[group.rows] = True
    owned = sum(owned_elements(analysis, model, chosen).values())
    block = analysis.block_of.get(group.name)
    return {
        "name": group.name,
        "rows": int(group.rows.shape[0]),
        "units": group.size,
        "channels": group.channels,
        "parameters": owned,
        "share": owned / max(total, 1),
        "producers": layers(group.producers),
        "readers": layers(group.readers),
        "constraints": list(dict.fromkeys(group.constraints)),
        "block": block.name if block else None,
    }


def _block(model: nn.Module, block: Block, total: int, redundancy: float | None) -> BlockEntry:
    known = dict(model.named_parameters(remove_duplicate=False))
    owned = sum(known[name].numel() for name in block.parameters if name in known)
    share = owned / max(total, 1)
    return {"name": block.name, "groups": list(block.groups), "parameters": owned, "share": share, "redundancy": redundancy}


def layers(parameters: Sequence[str]) -> list[str]:
    """The modules that hold these parameters, each once, in order; a parameter of the model itself stands for itself."""
    return list(dict.fromkeys(name.rpartition(".")[0] or name for name in parameters))


def find_group(analysis: Analysis, name: str) -> Group:
    """The group called ``name``.  Raises :class:`GraphError` that names near ones."""
    groups = {group.name: group for group in analysis.groups}
    if name not in groups:
        close = difflib.get_close_matches(name, groups, 5, 0.4) or list(groups)[:5]
        raise GraphError(f"the model has no group {name!r}", remedy=f"Groups are, for example: {', '.join(close)}.")
    return groups[name]
