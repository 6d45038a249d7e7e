"""One training step of a cut model, beside one of the uncut model."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from edgeprune.graph.batch import resized
from edgeprune.task import device_inputs

LEARNING_RATE = 1e-4
SAMPLES = 2


class TrainingStepError(Exception):
    """A cut model does not train as the uncut one does."""


def training_step(dense: nn.Module, cut: nn.Module, family: str, inputs: tuple[Any, ...]) -> str:
    """Let both take a step: forward in training mode, a loss over all outputs, backward, an optimizer's step.

    Returns "yes", or why the uncut model itself does not train on these inputs.  Raises :class:`TrainingStepError` when the cut one does
    not, gives other outputs, a loss that is not finite, or no gradient to a parameter that has one in the uncut model.
    """
    arguments = detection_batch() if family == "detection" else device_inputs(resized(inputs, SAMPLES))
    try:
        wanted, moved = _step(dense, arguments)
    except Exception as error:
        return f"uncut: {type(error).__name__}: {error}".splitlines()[0]
    try:
        structure, trained = _step(cut, arguments)
    except Exception as error:
        raise TrainingStepError(f"the cut model does not train: {type(error).__name__}: {error}") from error
    if structure != wanted:
        raise TrainingStepError(f"the cut model gives {structure} in training, and the uncut one {wanted}")
    lost = sorted((moved & set(dict(cut.named_parameters()))) - trained)
    if lost:
        raise TrainingStepError(f"{len(lost)} parameters have no gradient after the cut: {', '.join(lost[:5])}")
    return "yes"


def _step(model: nn.Module, arguments: tuple[Any, ...]) -> tuple[list[tuple[int, ...]], set[str]]:
    """The shapes of the outputs, and the parameters that have a gradient."""
    torch.manual_seed(0)
    random.seed(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    leaves = [leaf for leaf in pytree.tree_leaves(model.train()(*arguments)) if isinstance(leaf, Tensor)]
    parts = [leaf.float().square().mean() for leaf in leaves if leaf.is_floating_point() and leaf.requires_grad and leaf.numel()]
    loss = torch.stack(parts).sum()
    if not bool(loss.isfinite()):
        raise TrainingStepError(f"the loss is {loss.item()}")
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return [tuple(leaf.shape) for leaf in leaves], {name for name, value in model.named_parameters() if value.grad is not None}


def detection_batch(size: int = 320) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Images with one object each: a box, its class, mask and keypoints, for torchvision's detectors."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(3, size, size, generator=generator) for _ in range(SAMPLES)]
    mask = torch.zeros(1, size, size, dtype=torch.uint8)
    mask[:, 40:200, 40:200] = 1
    keypoints = torch.cat([torch.rand(1, 17, 2, generator=generator) * 160 + 40, torch.ones(1, 17, 1)], 2)
    target = {"boxes": torch.tensor([[40.0, 40.0, 200.0, 200.0]]), "labels": torch.tensor([1]), "masks": mask, "keypoints": keypoints}
    return images, [dict(target) for _ in images]
