"""Many plans tried on one model: what its graph computes before the first channel that goes is computed once for all of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgeprune.batches import Batch, tensors_of
from edgeprune.graph import Analysis
from edgeprune.graph.batch import batch_of, holds
from edgeprune.graph.capture import eval_mode
from edgeprune.graph.flow import writes_in_place
from edgeprune.graph.nodes import argument
from edgeprune.host import free_memory
from edgeprune.placement import device_of, to_device, wide
from edgeprune.surgery import Plan
from edgeprune.surgery.parameters import keep_masks
from edgeprune.surgery.plan import dropped_blocks, removed_channels
from edgeprune.surgery.reconstruct import Layer, fits, joined_inputs, solvable
from edgeprune.surgery.reference import Masked, needs_reference
from edgeprune.surgery.rewrite import stays_of
from edgeprune.tuning.context import as_float32, autocast, is_image, reduced_precision

SHARE = 0.5
"""Of the host's free memory that may be used."""

CLOSE = 1e-2
"""Largest difference between what the graph and the model compute, relative to the largest output."""

SAMPLES = 2
"""On which the two are compared."""

Env = dict[fx.Node, Any]


@dataclass(frozen=True)
class Trial:
    """A plan to try.  ``layers``: names of weights that are solved again first, so that their layers come nearest to what they compute in
    the whole model."""

    plan: Plan
    layers: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Cut:
    """What a trial changes.  ``masks``: of the parameters that lose something. ``stays``: what is left of the results, where zeros are not
    the same as nothing. ``start``: the place of the first node that computes something else."""

    masks: dict[str, Tensor]
    stays: dict[fx.Node, Tensor]
    start: int


@dataclass(frozen=True)
class _Wanted:
    """What ``layers`` compute in the whole model, at the positions that they are solved on; ``end``: behind the last of them."""

    layers: tuple[str, ...] = ()
    rows: dict[fx.Node, Tensor] = field(default_factory=dict)
    end: int = 0


class Rerun:
    """Runs ``model`` with one plan after the other masked, on ``batches``, from the first operation on that a plan changes.

    Batch norms take the statistics of each batch, in the whole model (``teacher``: its answers) as in the masked ones. Kept between plans
    is what is alive at one place of the graph, for all batches. ``solving``: batches that layers are solved on, all at once. The model is
    run where its weights are, and is not changed. :func:`rerun_of` knows which models it is for.

    Raises :class:`ValueError` where the graph does not compute what the model does, or writes into its inputs or weights, and
    :class:`MemoryError` where the batches need too much.
    """

    def __init__(self, model: nn.Module, analysis: Analysis, batches: Sequence[Batch], solving: Sequence[Batch]) -> None:
        self.model, self.analysis, self.device = model, analysis, device_of(model)
        self.run = _Run(model, analysis)
        self.nodes = list(self.run.graph.nodes)
        self.place = {node: place for place, node in enumerate(self.nodes)}
        self.inputs = {node: number for number, node in enumerate(node for node in self.nodes if node.op == "placeholder")}
        self.stored = {node: [part for part in node.all_input_nodes if part.op == "get_attr"] for node in self.nodes}
        self.batches = [self._laid_out(batch.leaves) for batch in batches]
        self.solving = [self._laid_out(joined_inputs(analysis, solving) or ())] if solving else []
        self.precision = reduced_precision(self.device, any(is_image(leaf) for leaf in self.batches[0]))
        self.written = self._look(batches[0])
        self.teacher = [self._outputs({}, 0, given) for given in self.batches]

    def outputs(self, trials: Sequence[Trial]) -> Iterator[tuple[int, list[Any]]]:
        """The number of every trial and its outputs on every batch, in the order of the graph."""
        cuts = [self._cut(trial.plan) for trial in trials]
        inputs, done, wanted = [*self.batches, *self.solving], 0, _Wanted()
        kept: list[Env] = [{} for _ in inputs]
        for number in sorted(range(len(trials)), key=lambda number: (cuts[number].start, number)):
            cut, layers = cuts[number], trials[number].layers
            for env, given in zip(kept, inputs, strict=True):
                self._advance(env, done, cut.start, given)
            done, solved = cut.start, dict[str, Tensor]()
            if layers and self.solving:
                if wanted.layers != layers:
                    wanted = self._wanted(kept[-1], done, layers)
                solved = self._solved(cut, kept[-1], wanted)
            with self.run.changed(cut, solved):
                yield number, [self._outputs(env, done, given) for env, given in zip(kept, self.batches, strict=False)]

    def _outputs(self, before: Env, start: int, given: Sequence[Any]) -> Any:
        """The outputs of a run from ``start`` on, after what is computed in ``before``."""
        env = dict(before)
        self._advance(env, start, len(self.nodes) - 1, given)
        self._fetch(self.nodes[-1])
        return as_float32(self.run.graph.process_outputs(fx.map_arg(self.nodes[-1].args[0], env.__getitem__)))

    def _advance(self, env: Env, start: int, end: int, given: Sequence[Any], before: Callable[[fx.Node, Env], None] | None = None) -> None:
        """Compute the nodes from ``start`` up to ``end`` into ``env``, which loses what is not used any more."""
        self.run.env = env
        with torch.no_grad(), autocast(self.precision, self.device):
            for place in range(start, end):
                node = self.nodes[place]
                if node.op == "get_attr":
                    continue  # fetched where it is used: what a plan changes may stand anywhere
                self._fetch(node)
                if before is not None:
                    with torch.autocast(self.device.type, enabled=False):
                        before(node, env)
                env[node] = given[self.inputs[node]] if node in self.inputs else self.run.run_node(node)
                for done in [*self.run.user_to_last_uses.get(node, []), *self.stored[node]]:
                    env.pop(done, None)

    def _fetch(self, node: fx.Node) -> None:
        for part in self.stored[node]:
            self.run.env[part] = self.run.run_node(part)

    def _laid_out(self, leaves: Sequence[Any]) -> list[Any]:
        """Inputs where the model is, images channels-last."""
        placed = to_device(list(leaves), self.device)
        return [leaf.contiguous(memory_format=torch.channels_last) if is_image(leaf) else leaf for leaf in placed]

    def _cut(self, plan: Plan) -> _Cut:
        """What a plan changes, and from where on."""
        gone = removed_channels(self.analysis, plan)
        masks = keep_masks(self.analysis, gone)
        stays: dict[fx.Node, Tensor] = {}
        if masks.keys() - self.run.state or needs_reference(self.analysis, self.analysis.captured.module, gone, masks):
            left = ((node, stays_of(self.analysis, gone, masks, node)) for node in self.nodes)
            stays = {node: part.to(self.device) for node, part in left if part is not None and not bool(part.all())}
        masks |= {name: torch.zeros((), dtype=torch.bool) for block in dropped_blocks(self.analysis, plan) for name in block.last}
        users = {user for node in self.nodes if node.op == "get_attr" and str(node.target) in masks for user in node.users}
        start = min((self.place[node] for node in {*users, *stays} if node.op != "get_attr"), default=len(self.nodes) - 1)
        return _Cut({name: mask.to(self.device) for name, mask in masks.items()}, stays, self._unwritten(start))

    def _unwritten(self, start: int) -> int:
        """The last place up to ``start`` where nothing is alive that is written into later."""
        earlier = min((made for made, written in self.written if made < start <= written), default=start)
        return start if earlier == start else self._unwritten(earlier)

    # layers that are solved again

    def _wanted(self, before: Env, start: int, layers: tuple[str, ...]) -> _Wanted:
        """What the layers compute in the whole model."""
        chosen = [node for node in self.nodes[start:] if solvable(node, self.run.state) and str(argument(node, 1).target) in layers]
        if not chosen:
            return _Wanted(layers)
        rows: dict[fx.Node, Tensor] = {}
        env, place = dict(before), start
        for node in chosen:
            end = self.place[node] + 1
            self._advance(env, place, end, self.solving[0])
            value = env.get(node)
            if isinstance(value, Tensor):
                rows[node] = Layer(node, self.run.state[str(argument(node, 1).target)]).sampled(value)
            place = end
        return _Wanted(layers, rows, place)

    def _solved(self, cut: _Cut, before: Env, wanted: _Wanted) -> dict[str, Tensor]:
        """New weights and biases, by name."""
        solved: dict[str, Tensor] = {}

        def solve(node: fx.Node, env: Env) -> None:
            values = env[argument(node, 0)] if node in wanted.rows else None
            if not isinstance(values, Tensor) or not values.is_floating_point():
                return
            layer = Layer(node, env[argument(node, 1)])
            for part, value in layer.solved_from(values, wanted.rows[node]).items():
                name = str(part.target)
                solved[name] = self.run.state[name] = env[part] = value * cut.masks[name] if name in cut.masks else value

        with self.run.changed(cut, {}):
            self._advance(dict(before), cut.start, wanted.end, self.solving[0], solve)
        return solved

    # what the graph does

    def _look(self, batch: Batch) -> list[tuple[int, int]]:
        """Run a few samples through the graph, compare with the model, and return for every operation that writes into its operand where
        that memory was first used, and where it is written into."""
        count = batch_of(batch.leaves)
        few = batch.mapped(lambda value: value[:SAMPLES].clone() if holds(value, count) else value.clone(), targets=False).to(self.device)
        with eval_mode(self.model), torch.no_grad():
            expected = tensors_of(few.call(self.model))
        leaves, env, made = self._laid_out(few.leaves), Env(), dict[int, int]()
        kept = {value.untyped_storage().data_ptr() for value in (*tensors_of(leaves), *self.run.state.values())}
        written, new = [], [0] * len(self.nodes)
        self.run.env = env
        with torch.no_grad(), self.run.evaluating():
            for place, node in enumerate(self.nodes[:-1]):
                self._fetch(node)
                env[node] = leaves[self.inputs[node]] if node in self.inputs else self.run.run_node(node)
                for tensor in tensors_of(env[node]) if node.op != "get_attr" else []:
                    memory = tensor.untyped_storage()
                    new[place] += memory.nbytes() if made.setdefault(memory.data_ptr(), place) == place else 0
                    if writes_in_place(node):
                        written.append((made[memory.data_ptr()], place))
                        if memory.data_ptr() in kept:
                            raise ValueError(f"{node.name} writes into what the graph is given")
            self._fetch(self.nodes[-1])
            found = tensors_of(fx.map_arg(self.nodes[-1].args[0], env.__getitem__))
        if not _alike(found, expected):
            raise ValueError("the graph does not compute what the model does")
        self._refuse_too_much(new, max(1, min(SAMPLES, count)))
        return written

    def _refuse_too_much(self, new: list[int], samples: int) -> None:
        """``new``: bytes that every node adds for ``samples``."""
        alive, most = 0, 0
        for node, size in zip(self.nodes, new, strict=True):
            alive += size
            most = max(most, alive)
            alive -= sum(new[self.place[done]] for done in self.run.user_to_last_uses.get(node, []))
        sizes = [batch_of(given) for given in [*self.batches, *self.solving]]
        needed = most / samples * (sum(sizes) + max(sizes))
        if self.device.type == "cpu" and needed > SHARE * free_memory():
            raise MemoryError(f"{needed / 2**20:.0f} MiB are needed")


def rerun_of(model: nn.Module, analysis: Analysis, batches: Sequence[Batch], solving: Sequence[Batch] = ()) -> Rerun | None:
    """A :class:`Rerun`; None for a model that cannot be run so: captured in parts, at a fixed batch size or with other inputs than these,
    random in evaluation, or too large for the memory."""
    captured = analysis.captured
    if captured.parts or not captured.any_batch or analysis.random:
        return None
    if not all(fits(analysis, batch.leaves) for batch in (*batches, *solving)):
        return None
    try:
        return Rerun(model, analysis, batches, solving)
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, MemoryError):
        return None


def _alike(found: list[Tensor], expected: list[Tensor]) -> bool:
    """Equal but for sums in another order."""
    if [value.shape for value in found] != [value.shape for value in expected]:
        return False
    for one, other in zip(map(wide, found), map(wide, expected), strict=True):
        scale = float(other.abs().max()) if other.numel() else 0.0
        if not torch.allclose(one, other, rtol=CLOSE, atol=CLOSE * scale, equal_nan=True):
            return False
    return True


class _Run(Masked):
    """The masked model, one node after the other; its batch norms take the statistics of each batch."""

    def __init__(self, model: nn.Module, analysis: Analysis) -> None:
        super().__init__(model, analysis, np.zeros(len(analysis.roots), bool), {})
        self.measures, self._whole = True, self.stays

    def normalized(self, norm: _BatchNorm, node: fx.Node) -> Tensor:
        """With the statistics of the batch, or while evaluating with those that it has."""
        x, weight, bias, mean, variance = self.fetch_args_kwargs_from_env(node)[0][:5]
        if self.measures:
            mean = variance = None
        return nn.functional.batch_norm(x, mean, variance, weight, bias, self.measures, 0.0, norm.eps)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Batch norms inside have the statistics that they are trained with."""
        self.measures = False
        try:
            yield
        finally:
            self.measures = True

    @contextmanager
    def changed(self, cut: _Cut, solved: dict[str, Tensor]) -> Iterator[None]:
        """The model inside is masked as ``cut`` says, with these new weights."""
        state, stays = self.state, defaultdict[fx.Node, Tensor | None](lambda: None)
        stays.update(cut.stays)
        self.masks, self.stays, self.state = cut.masks, stays, state | solved
        try:
            yield
        finally:
            self.masks, self.stays, self.state = {}, self._whole, state
