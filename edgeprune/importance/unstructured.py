"""Single weights by magnitude: which of them stay when a model is made sparse.

The smallest go, by a threshold that is given (theta) or by one that leaves a wanted share: over all weights at once, or in every layer
alike. Sources: Han et al., "Learning both Weights and Connections", 2015 (thresholds); Gale, Elsen & Hooker, "The State of Sparsity in
Deep Neural Networks", 2019 (magnitude is hard to beat).

What runs sparse weights decides the pattern. XNNPACK's float kernels take any; on aarch64 it has kernels for blocks of 2 and 4 output
channels that are zero together, and takes them for a layer nine tenths of whose kept weights lie in whole blocks (``block``; XNNPACK's
``src/operators/convolution-nchw.c``). N:M patterns such as 2:4 are not made: no runtime that edgeprune exports for computes with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, Literal, cast

import torch
from torch import Tensor, fx, nn

from edgeprune.errors import InputError, suggest
from edgeprune.graph.exported import tensor_at
from edgeprune.graph.rules.contraction import CONVOLUTIONS, groups_of

Masks = dict[str, Tensor]
"""By parameter, which weights stay: boolean, in the parameter's shape."""

Scope = Literal["global", "layer"]

BLOCKS: Final = (1, 2, 4)
"""Output channels that may be made zero together: what XNNPACK has kernels for."""


def sparse_parameters(model: nn.Module, linear: bool = True) -> dict[str, nn.Parameter]:
    """The weights that sparse kernels are made for, by name: of 1x1 convolutions without groups and, if wanted, of linear layers.

    Shared weights appear once. Raises :class:`InputError` when there is none.
    """
    named = {id(parameter): name for name, parameter in model.named_parameters()}
    weights = [*_of_modules(model, linear), *(_of_graph(model, linear) if isinstance(getattr(model, "graph", None), fx.Graph) else ())]
    found = {named[id(weight)]: weight for weight in weights if isinstance(weight, nn.Parameter)}
    if not found:
        raise InputError(
            "the model has no 1x1 convolution" + (" and no linear layer" if linear else ""),
            remedy="Sparse weights make only these faster: prune channels instead (edgeprune prune).",
        )
    return found


def _of_modules(model: nn.Module, linear: bool) -> Iterator[Tensor]:
    for module in model.modules():
        pointwise = isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1
        if pointwise or (linear and isinstance(module, nn.Linear)):
            yield tensor_at(module, "weight")


def _of_graph(model: nn.Module, linear: bool) -> Iterator[Tensor]:
    """The same of a graph of ATen operations, which pruning makes of some models."""
    for node in cast(fx.Graph, model.graph).nodes:
        if len(node.args) < 2 or not isinstance(node.args[1], fx.Node) or node.args[1].op != "get_attr":
            continue
        weight = tensor_at(model, str(node.args[1].target))
        pointwise = node.target in CONVOLUTIONS and weight.shape[2:] == (1, 1) and groups_of(node) == 1
        if pointwise or (linear and node.target == torch.ops.aten.linear.default):
            yield weight


def threshold_masks(parameters: Mapping[str, Tensor], theta: float, block: int = 1) -> Masks:
    """Keep what is at least ``theta`` in magnitude (the mean magnitude of a block).  Every parameter keeps at least its largest.

    ``parameters``: tensors of shape (output channels, ...). Raises :class:`InputError` for a negative ``theta`` or an unknown ``block``.
    """
    if not theta >= 0:
        raise InputError(f"theta {theta} must be zero or more")
    return {name: _spread(_at_least(score, theta), block, parameters[name]) for name, score in _scores(parameters, block).items()}


def importance_masks(importance: Mapping[str, Tensor], gamma: float) -> Masks:
    """Keep what is more important than ``gamma``: of weights, of channels, or of the connections between layers.

    ``importance``: tensors of any shape, zero or more, such as what a criterion gives. Unlike with :func:`threshold_masks`, what is exactly
    at the limit goes. Everything keeps at least its most important. Raises :class:`InputError` for a negative ``gamma``.
    """
    if not gamma >= 0:
        raise InputError(f"gamma {gamma} must be zero or more")
    return {name: _with_largest(values.detach() > gamma, values.detach()) for name, values in importance.items()}


def quantile_masks(parameters: Mapping[str, Tensor], sparsity: float, scope: Scope = "global", block: int = 1) -> Masks:
    """Take away the share ``sparsity`` of all weights, the smallest first: over all parameters at once, or (``"layer"``) in each.

    Ties are broken by place, so that the share is met as nearly as whole blocks allow; every parameter keeps at least its largest.
    Raises :class:`InputError` for a sparsity outside 0 to 1, an unknown ``scope`` or ``block``.
    """
    if not 0 <= sparsity < 1:
        raise InputError(
            f"sparsity {sparsity} is not between 0 and 1", remedy="Give the share of zeros: 0.85 (or 85% on the command line)."
        )
    if scope not in ("global", "layer"):
        raise InputError(f"unknown scope {scope!r}", remedy=suggest(scope, ("global", "layer"), "scopes"))
    scores = _scores(parameters, block)
    if scope == "layer":
        kept = {name: _largest(score.flatten(), sparsity).view(score.shape) for name, score in scores.items()}
    else:
        everything = _largest(torch.cat([score.flatten() for score in scores.values()]), sparsity)
        pieces = torch.split(everything, [score.numel() for score in scores.values()])
        kept = {name: piece.view(score.shape) for (name, score), piece in zip(scores.items(), pieces, strict=True)}
    return {name: _spread(_with_largest(keep, scores[name]), block, parameters[name]) for name, keep in kept.items()}


def apply_masks(parameters: Mapping[str, Tensor], masks: Masks) -> None:
    """Set to zero, in place, what does not stay."""
    with torch.no_grad():
        for name, mask in masks.items():
            parameters[name].masked_fill_(~mask, 0.0)


def sparsity_of(parameters: Mapping[str, Tensor]) -> float:
    """The share of all these weights that is zero."""
    total = sum(parameter.numel() for parameter in parameters.values())
    return 1.0 - sum(int(parameter.count_nonzero()) for parameter in parameters.values()) / total


def _scores(parameters: Mapping[str, Tensor], block: int) -> dict[str, Tensor]:
    """Mean magnitude of every block of ``block`` output channels: (channels / block, other weights); the last block may be smaller."""
    if block not in BLOCKS:
        raise InputError(f"block {block} is not a known block of output channels", remedy=f"Known blocks: {', '.join(map(str, BLOCKS))}.")
    scores = {}
    for name, parameter in parameters.items():
        rows = parameter.detach().abs().flatten(1)
        scores[name] = torch.stack([part.mean(0) for part in torch.split(rows, block)]) if block > 1 else rows
    return scores


def _at_least(score: Tensor, theta: float) -> Tensor:
    return _with_largest(score >= theta, score)


def _with_largest(keep: Tensor, score: Tensor) -> Tensor:
    if not bool(keep.any()):
        keep = torch.zeros_like(keep).flatten().index_fill(0, score.argmax(), True).view_as(keep)
    return keep


def _largest(score: Tensor, sparsity: float) -> Tensor:
    """The mask of all but the ``sparsity`` smallest values."""
    mask = torch.ones(score.numel(), dtype=torch.bool, device=score.device)
    mask[score.argsort(stable=True)[: round(sparsity * score.numel())]] = False
    return mask


def _spread(keep: Tensor, block: int, parameter: Tensor) -> Tensor:
    """From blocks back to single weights."""
    rows = keep.repeat_interleave(block, 0)[: parameter.shape[0]] if block > 1 else keep
    return rows.reshape(parameter.shape)
