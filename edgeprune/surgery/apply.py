"""A plan applied to a model, and checked."""

from __future__ import annotations

import copy
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from edgeprune.batches import Inputs, call
from edgeprune.errors import VerificationError
from edgeprune.graph import Analysis
from edgeprune.graph.capture import eval_mode
from edgeprune.graph.parts import set_tensor, split
from edgeprune.graph.training import still_outputs
from edgeprune.parametrization import folded
from edgeprune.surgery.inplace import apply_in_place
from edgeprune.surgery.parameters import expanded, keep_masks, masked_copy
from edgeprune.surgery.plan import Plan, dropped_blocks, removed_channels
from edgeprune.surgery.reference import Reference, needs_reference
from edgeprune.surgery.rewrite import apply_to_graph
from edgeprune.task import device_inputs

Mode = Literal["modules", "graph"]
TOLERANCE = 1e-4
"""Largest difference to the masked original, relative to the largest output: float32 sums in another order.  Half precision: two of its
steps."""


@dataclass
class Pruned:
    """``model``: smaller, trainable. ``mode``: "modules" (a copy of the user's own) or "graph" (the exported graph, where sizes are baked
    into the code). ``error``: largest difference to the masked original, relative to its largest output, in training too where that
    computes something of its own. ``inactive``: layers that acted in training, and no longer do."""

    model: nn.Module
    plan: Plan
    mode: Mode
    error: float
    inactive: tuple[str, ...] = ()


def apply(model: nn.Module, analysis: Analysis, plan: Plan, mode: Mode | None = None) -> Pruned:
    """Cut ``plan`` out of a copy of ``model`` and check that it computes what the masked original computes.

    ``model``: of the structure that was analysed, with any weights. ``mode``: insist on one way. Raises :class:`PlanError` when the
    plan does not fit,
    :class:`VerificationError` when no way gives the same outputs.
    """
    model = folded(model)
    gone, blocks = removed_channels(analysis, plan), dropped_blocks(analysis, plan)
    masks = keep_masks(analysis, gone)
    check = _Check(model, analysis, plan)
    reason = "whole blocks are removed"
    if mode != "graph" and not blocks:
        try:
            smaller = apply_in_place(model, masks)
            return Pruned(smaller, plan, "modules", check.error(smaller))
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError, VerificationError) as error:
            reason = str(error)
            if mode == "modules":
                raise VerificationError(f"the plan cannot be applied to the modules themselves: {reason}") from error
    inactive = _inactive(analysis, reason)
    smaller = apply_to_graph(model, analysis, gone, masks, blocks)
    if analysis.captured.parts:
        assert isinstance(smaller, fx.GraphModule)
        smaller = _with_parts(model, split(smaller, analysis.captured.parts))
    try:
        return Pruned(smaller, plan, "graph", check.error(smaller), inactive)
    except (RuntimeError, VerificationError) as error:
        drawn = f"; the model draws random numbers in eval mode: {', '.join(analysis.random)}" if analysis.random else ""
        raise VerificationError(f"the compacted model differs from the masked original: {error} (in place: {reason}){drawn}") from error


class _Check:
    """Compares cut models with the masked original: on one inference, and in training where that computes something of its own."""

    def __init__(self, model: nn.Module, analysis: Analysis, plan: Plan) -> None:
        self.inputs, self.view = device_inputs(analysis.captured.inputs), analysis.captured.view
        reference = masked(model, analysis, plan)
        self.expected = outputs_of(reference if isinstance(reference, Reference) else self.view(reference), self.inputs)
        training = analysis.captured.training
        self.trained: list[Tensor] | None = None
        if training is not None and training.graph is not None:
            copied = reference.model if isinstance(reference, Reference) else reference
            assert isinstance(copied, nn.Module)
            gone = removed_channels(analysis, plan)
            self.trained = still_outputs(copied, self.inputs, Reference(copied, analysis, gone, keep_masks(analysis, gone), training.graph))

    def error(self, smaller: nn.Module) -> float:
        """The largest difference; raises :class:`VerificationError` when it is too large."""
        worst = _difference(outputs_of(self.view(smaller), self.inputs), self.expected)
        if self.trained is None:
            return worst
        try:
            return max(worst, _difference(still_outputs(smaller, self.inputs), self.trained))
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError, VerificationError) as error:
            raise VerificationError(f"in training mode: {error}") from error


def _inactive(analysis: Analysis, reason: str) -> tuple[str, ...]:
    """The layers that only training uses and that a graph of one inference loses.  Raises :class:`VerificationError` where these give
    outputs."""
    training = analysis.captured.training
    if training is None or training.graph is not None:
        return ()
    if training.outputs:
        raise VerificationError(
            f"the model can only be pruned in its captured graph ({reason}), and what "
            f"{', '.join(training.layers[:5]) or 'it'} gives in training cannot be captured: {training.why}",
            remedy="Make it return the same structure in training as in evaluation, or remove what fixes its sizes.",
        )
    return training.layers


def _with_parts(model: nn.Module, parts: dict[str, fx.GraphModule]) -> nn.Module:
    """A copy of ``model`` with these in the places of its submodules; parameters that they share with the rest stay shared."""
    result = copy.deepcopy(model)
    known = dict(model.named_modules())
    for name, module in model.named_modules(remove_duplicate=False):
        found = next((part for own, part in parts.items() if known[own] is module), None)
        if found is not None:
            result.set_submodule(name, found)
    places: dict[int, list[str]] = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        places[id(parameter)].append(name)
    made = dict(result.named_parameters(remove_duplicate=False))
    for names in places.values():
        cut = next((made[name] for name in names if name in made and name.startswith(tuple(f"{part}." for part in parts))), None)
        if cut is not None:
            for name in made.keys() & set(names):
                set_tensor(result, name, cut)
    return result


def masked(model: nn.Module, analysis: Analysis, plan: Plan) -> nn.Module:
    """A copy of ``model`` in its own shapes with all that ``plan`` removes set to zero; where zeros are not the same as nothing
    (normalisation over channels, attention) the :class:`Reference` that leaves them out."""
    model, gone = folded(model), removed_channels(analysis, plan)
    masks = keep_masks(analysis, gone)
    nothing = {name: torch.zeros((), dtype=torch.bool) for block in dropped_blocks(analysis, plan) for name in block.last}
    held = {name for name, _ in [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]}
    constants = masks.keys() - held  # of the graph alone: what the model keeps outside its parameters and buffers
    copied = masked_copy(model, {name: mask for name, mask in (masks | nothing).items() if name not in constants})
    needed = bool(constants) or needs_reference(analysis, analysis.captured.module, gone, masks)
    return Reference(copied, analysis, gone, masks) if needed else copied


def restore(model: nn.Module, analysis: Analysis, pruned: Pruned) -> nn.Module:
    """A copy of the dense ``model`` with ``pruned``'s present weights, zeros where channels went."""
    model = folded(model)
    result = copy.deepcopy(model)
    masks = keep_masks(analysis, removed_channels(analysis, pruned.plan))
    result.load_state_dict(expanded(model, masks, pruned.model.state_dict()))
    return result


def outputs_of(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    """All output tensors in eval mode; what the model draws at random it draws from the same seed in every call."""
    devices = {value.device.index or 0 for value in pytree.tree_leaves(inputs) if isinstance(value, Tensor) and value.is_cuda}
    with eval_mode(model), torch.no_grad(), torch.random.fork_rng(devices):
        torch.manual_seed(0)
        return flatten_outputs(call(model, inputs))


def flatten_outputs(value: Any) -> list[Tensor]:
    """The tensors in a model's output (a tensor, or nested tuples, lists and dicts of them), in order."""
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def _difference(got: list[Tensor], expected: list[Tensor]) -> float:
    if [value.shape for value in got] != [value.shape for value in expected]:
        raise VerificationError(f"output shapes {[tuple(v.shape) for v in got]}, not {[tuple(v.shape) for v in expected]}")
    for values, which in ((expected, "masked original"), (got, "compacted model")):
        if not all(bool(value.isfinite().all()) for value in values):
            raise VerificationError(
                f"the {which} gives values that are not finite (NaN or infinite): they cannot be compared",
                remedy="Check the model's outputs for its example inputs; an infinite mask or a division by zero is the usual cause.",
            )
    worst = 0.0
    for one, other in zip(got, expected, strict=True):
        scale = max(float(other.double().abs().max()) if other.numel() else 0.0, 1e-6)
        worst = max(worst, float((one.double() - other.double()).abs().max()) / scale if other.numel() else 0.0)
    limit = max([TOLERANCE, *(2 * torch.finfo(value.dtype).eps for value in expected if value.is_floating_point())])
    if not worst <= limit:
        raise VerificationError(f"outputs differ by {worst:.2g} of their largest value, more than {limit:g}")
    return worst
