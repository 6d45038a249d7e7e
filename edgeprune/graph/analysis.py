"""What may be pruned in a model."""

from __future__ import annotations

import gc
import hashlib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor, fx, nn

from edgeprune.batches import Inputs
from edgeprune.errors import GraphError, NothingToPruneError
from edgeprune.graph.blocks import Block, find_blocks
from edgeprune.graph.capture import Captured, capture
from edgeprune.graph.flow import Flow, draws, place_of
from edgeprune.graph.groups import Group, build_groups
from edgeprune.graph.labels import squeeze_constant
from edgeprune.graph.propagate import propagate


@dataclass
class Analysis:
    """Groups of channels, who owns them, and what is fixed and why.

    ``fixed``: reason for every channel that must stay. ``unsupported``: (node, operation) pairs that had no rule. ``droppable``: whether
    blocks may go whole, which only a graph can do.
    """

    captured: Captured
    flow: Flow
    groups: list[Group]
    fixed: dict[int, str]
    droppable: bool = True

    @property
    def unsupported(self) -> list[tuple[str, str]]:
        """(node, operation) for every operation without a rule; all it touches is fixed."""
        return self.flow.unsupported

    @property
    def random(self) -> list[str]:
        """Where the model draws random numbers in eval mode."""
        return list(dict.fromkeys(place_of(node) for node in self.captured.module.graph.nodes if draws(node)))

    @cached_property
    def roots(self) -> np.ndarray:
        """For every label its channel."""
        return self.flow.channels.roots()

    def channels_of(self, labels: Tensor) -> Tensor:
        """Labels as channels (classes), constant dimensions narrowed to size 1."""
        return torch.from_numpy(np.asarray(self.roots[squeeze_constant(labels).numpy()]))

    def node_channels(self, node: fx.Node) -> Tensor | None:
        """The channels of what a node computes, constant dimensions narrowed to size 1; None for what is not one tensor."""
        value = self.flow.values.get(node)
        return self.channels_of(value) if isinstance(value, Tensor) else None

    @cached_property
    def blocks(self) -> list[Block]:
        """Residual branches that may go whole: keeping no channel of their groups removes them.  A training step has the same ones."""
        training = self.captured.training
        if not self.droppable or (training is not None and training.graph is None and (training.layers or training.outputs)):
            return []
        return [
            block
            for block in find_blocks(self.flow, self.groups)
            if training is None or training.graph is None or self._in_training(block) is not None
        ]

    def _in_training(self, block: Block) -> Block | None:
        """The same block of the training step's graph."""
        known = {(other.groups, other.last, other.parameters): other for other in self._training_blocks}
        return known.get((block.groups, block.last, block.parameters))

    @cached_property
    def _training_blocks(self) -> list[Block]:
        training = self.captured.training
        if training is None or training.graph is None:
            return []
        return find_blocks(replace(self.flow, captured=replace(self.captured, module=training.graph)), self.groups)

    def in_training(self, blocks: list[Block]) -> list[Block]:
        """These blocks as they stand in the training step's graph."""
        return [found for block in blocks if (found := self._in_training(block)) is not None]

    @cached_property
    def block_of(self) -> dict[str, Block]:
        """The removable block that a group lives in, for groups that live in one."""
        return {name: block for block in self.blocks for name in block.groups}

    @cached_property
    def fingerprint(self) -> str:
        """Identifies the structure: parameters, shapes and groups.  A plan made for one structure fits no other."""
        digest = hashlib.sha256()
        for name, tensor in self.captured.module.state_dict().items():
            digest.update(f"{name}{tuple(tensor.shape)};".encode())
        for group in self.groups:
            digest.update(f"{group.name}{group.rows.shape}{group.producers}{group.readers};".encode())
        return digest.hexdigest()[:16]


def analyze(
    model: nn.Module, example_inputs: Inputs, protect: Sequence[str] = (), attention: Literal["heads", "dimensions"] = "heads"
) -> Analysis:
    """Follow every channel of ``model`` and return its groups.  The model is not changed.

    ``example_inputs``: a tuple of positional inputs, or a dict of keyword arguments.
    ``protect``: names of modules (or parameters) whose output channels must stay. ``attention``: whether attention layers lose whole heads
    or the same number of dimensions of every head. Raises :class:`CaptureError` when the model cannot
    be captured,
    :class:`NothingToPruneError` when no channel may be removed.
    """
    with _uncollected():
        captured = capture(model, example_inputs)
        flow = propagate(captured, attention == "heads")
        for name in protect:
            _protect(flow, name)
        groups, fixed = build_groups(flow)
        analysis = Analysis(captured, flow, groups, fixed)
    if analysis.random:
        warnings.warn(f"the model draws random numbers in eval mode: {', '.join(analysis.random)}", stacklevel=2)
    if not analysis.groups:
        if captured.whole is not None:
            raise captured.whole
        raise NothingToPruneError("nothing can be pruned", remedy=_why_nothing(analysis))
    return analysis


@contextmanager
def _uncollected() -> Iterator[None]:
    """Python's garbage is collected after, not inside: an export makes millions of objects, nearly all of which stay until its end, and
    is searched for garbage for a sixth of its time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _protect(flow: Flow, name: str) -> None:
    owned = [
        labels for owner, labels in flow.owners.items() if owner in flow.producing and (owner[0] == name or owner[0].startswith(name + "."))
    ]
    if not owned:
        raise GraphError(
            f"protect names {name!r}, which has no parameters in the graph", remedy="Give the name of a module as in model.named_modules()."
        )
    for labels in owned:
        flow.channels.freeze(labels, "protected")


def _why_nothing(analysis: Analysis) -> str:
    counts: dict[str, int] = {}
    for reason in analysis.fixed.values():
        counts[reason] = counts.get(reason, 0) + 1
    worst = sorted(counts.items(), key=lambda item: -item[1])[:5]
    text = (
        "Why: " + ("; ".join(f"{count} channels: {reason}" for reason, count in worst) or "no layer's channels end inside the model") + "."
    )
    missing = sorted({operation for _, operation in analysis.unsupported})
    return text + (f" Without a rule: {', '.join(missing)}; what they touch stays." if missing else "")
