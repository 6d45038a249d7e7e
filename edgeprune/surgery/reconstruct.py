"""Solve the remaining weights of every layer again, so that they compute from the remaining inputs what the layer computed before."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from edgeprune.batches import as_batch
from edgeprune.errors import InputError
from edgeprune.graph import Analysis
from edgeprune.graph.batch import batch_of, holds
from edgeprune.graph.capture import eval_mode
from edgeprune.graph.exported import tensor_at
from edgeprune.graph.flow import name_of
from edgeprune.graph.nodes import argument
from edgeprune.graph.rules.contraction import CONVOLUTIONS, groups_of
from edgeprune.placement import PlacedInterpreter, device_of, placed, to_device
from edgeprune.surgery.parameters import keep_masks, masked_copy
from edgeprune.surgery.plan import Plan, dropped_blocks, removed_channels
from edgeprune.surgery.reference import Masked

ROWS, MOST_COLUMNS = 8192, 4608
"""Positions that a layer is solved on (at least four times its columns), and the widest layer that is solved."""

MOST_ELEMENTS = 2**27
"""Of one activation, for all calibration samples together: 512 MB in float32."""

DAMPING = 0.01
"""Ridge towards the present weights, relative to the mean square of the inputs."""

CONVOLVE = frozenset(CONVOLUTIONS)


def reconstruct(
    model: nn.Module,
    analysis: Analysis,
    plan: Plan,
    batches: Sequence[Any],
    device: torch.device | None = None,
    layers: Collection[str] | None = None,
) -> nn.Module:
    """A copy of ``model``, in its own shapes, whose weights make up for what ``plan`` will remove.

    ``batches``: calibration data, of ``task.batches`` or ``(inputs, targets)``; all are run at once.
    Going through the graph once, every convolution and linear
    layer gets the weights that come nearest to what it computes in the whole model, from the inputs that it will have in the smaller
    one, by least squares with a ridge towards the weights it has; batch norms take the smaller model's statistics on the way. Weights
    that are used twice, buffers, and models captured by part or at a fixed batch size are left as they are; batches that do not have the
    shape of the example inputs are left out, and so are samples beyond what ``MOST_ELEMENTS`` of the largest activation hold.
    Source: He, Zhang & Sun, "Channel Pruning for Accelerating Very Deep Neural Networks", 2017, section 3.1 (the least squares, from the
    outputs of the whole model and the inputs of the pruned one). ``device``: where it is computed; where the model is, unless given.
    ``layers``: names of the weights that are solved; all that can be, unless given.
    """
    if not batches:
        raise InputError("reconstruction needs at least one calibration batch")
    if analysis.captured.parts or not analysis.captured.any_batch:
        return copy.deepcopy(model)
    inputs = joined_inputs(analysis, batches)
    if inputs is None:
        return copy.deepcopy(model)
    gone = removed_channels(analysis, plan)
    masks = keep_masks(analysis, gone)
    blocks = dropped_blocks(analysis, plan)
    lost = {node for block in blocks for node in block.nodes}
    nothing = {name: torch.zeros((), dtype=torch.bool) for block in blocks for name in block.last}
    small = masked_copy(model, masks | nothing)
    with placed(device or device_of(model), model, small), eval_mode(model), torch.no_grad():
        pair = _Pair(Masked(small, analysis, gone, masks), model, lost, layers)
        solved = pair.walk(to_device(inputs, device_of(model)))
    result = copy.deepcopy(model)
    with torch.no_grad():
        for name, value in solved.items():
            tensor_at(result, name).copy_(value)
    return result


def fits(analysis: Analysis, leaves: Sequence[Any]) -> bool:
    """Whether the captured graph takes these inputs of a batch, flat."""
    examples, held = pytree.tree_leaves(analysis.captured.inputs), batch_of(analysis.captured.inputs)
    return len(leaves) == len(examples) and all(_alike(*pair, held) for pair in zip(leaves, examples, strict=True))


def joined_inputs(analysis: Analysis, batches: Sequence[Any]) -> tuple[Any, ...] | None:
    """The flat inputs of all batches that the captured graph takes, as one batch; None when there is none."""
    examples, held = pytree.tree_leaves(analysis.captured.inputs), batch_of(analysis.captured.inputs)
    fitting = [leaves for leaves in (as_batch(given).leaves for given in batches) if fits(analysis, leaves)]
    if not fitting:
        return None
    tensors = (node.meta.get("val") for node in analysis.captured.module.graph.nodes if node.op != "get_attr")
    largest = max(_numel(value) for value in tensors if isinstance(value, Tensor)) / held
    most = max(2, int(MOST_ELEMENTS / largest))
    columns = zip(examples, zip(*fitting, strict=True), strict=True)
    return tuple(torch.cat(column)[:most] if holds(example, held) else column[0] for example, column in columns)


def _alike(given: Any, example: Any, held: int) -> bool:
    """Whether an input can stand in the place of an example of ``held`` samples."""
    if not isinstance(given, Tensor) or not isinstance(example, Tensor):
        return bool(given is example or (type(given) is type(example) and given == example))
    first = 1 if holds(example, held) else 0  # the first dimension that must be the example's
    if given.dim() != example.dim() or given.shape[first:] != example.shape[first:] or not given.numel():
        return False
    return given.dtype == example.dtype or not (given.is_floating_point() or example.is_floating_point())


def _numel(value: Tensor) -> int:
    return math.prod(size if isinstance(size, int) else size.node.hint for size in value.shape)


class _Pair:
    """The whole model and the masked one, walked side by side."""

    def __init__(self, masked: Masked, model: nn.Module, lost: set[fx.Node], layers: Collection[str] | None) -> None:
        self.small, self.lost, self.layers = masked, lost, layers
        self.whole = PlacedInterpreter(masked.analysis.captured.module, masked.device)
        self.whole_state = {**model.state_dict(keep_vars=True), **dict(model.named_buffers())}
        self.graph: fx.Graph = masked.analysis.captured.module.graph
        self.solved: dict[str, Tensor] = {}

    def walk(self, inputs: tuple[Any, ...]) -> dict[str, Tensor]:
        """The new weights and biases by name."""
        placeholders = [node for node in self.graph.nodes if node.op == "placeholder"]
        given = dict(zip(placeholders, inputs, strict=True))
        for norm in self.small.model.modules():
            if isinstance(norm, nn.modules.batchnorm._BatchNorm):
                norm.training = batch_of(inputs) > 1  # its own statistics, as it will have after recalibration
        last = self._last()
        if last is None:
            return {}
        for node in self.graph.nodes:
            if node.op == "output":
                break
            if node.op == "placeholder":
                self.whole.env[node] = self.small.env[node] = given[node]
                continue
            self.whole.env[node] = self._run_whole(node)
            self._improve(node)
            self.small.env[node] = self.small.run_node(node)
            for done in self.whole.user_to_last_uses.get(node, []):
                self.whole.env.pop(done, None)
                self.small.env.pop(done, None)
            if node is last:
                break
        return self.solved

    def _last(self) -> fx.Node | None:
        """Where the last of the layers that may be solved is; None where none may be."""
        if self.layers is None:
            return self.graph.output_node()
        users = {user for node in self.graph.nodes if str(node.target) in self.layers for user in node.users}
        return next((node for node in reversed(self.graph.nodes) if node in users), None)

    def _run_whole(self, node: fx.Node) -> Any:
        if node.op == "get_attr" and str(node.target) in self.whole_state:
            return self.whole_state[str(node.target)]
        return self.whole.run_node(node)

    def _improve(self, node: fx.Node) -> None:
        """Solve the layer at ``node``, if it is one and its input has changed."""
        if node in self.lost or not solvable(node, self.whole_state):
            return
        source, weight = argument(node, 0), argument(node, 1)
        if self.layers is not None and str(weight.target) not in self.layers:
            return
        values, before = self.small.env[source], self.whole.env[source]
        if not isinstance(values, Tensor) or torch.equal(values, before) or not values.is_floating_point():
            return
        for part, value in Layer(node, self.small.env[weight]).solved(values, self.whole.env[node]).items():
            self._store(part, value)

    def _store(self, node: fx.Node, value: Tensor) -> None:
        name = str(node.target)
        value = value * self.small.masks[name] if name in self.small.masks else value
        self.solved[name] = self.small.state[name] = self.small.env[node] = value


def solvable(node: fx.Node, state: Mapping[str, Tensor]) -> bool:
    """Whether ``node`` is a convolution or linear layer whose weight and bias are parameters in ``state`` that it alone uses."""
    if not (node.target in CONVOLVE or name_of(node) == "linear"):
        return False
    return all(_used_once(part, state) for part in (argument(node, 1), argument(node, 2)) if part is not None)


def _used_once(part: Any, state: Mapping[str, Tensor]) -> bool:
    stored = isinstance(part, fx.Node) and part.op == "get_attr" and len(part.users) == 1
    return stored and isinstance(state.get(str(part.target)), nn.Parameter)


def _normalised(node: fx.Node) -> bool:
    """Whether a batch norm takes up any constant that is added."""
    return len(node.users) == 1 and name_of(next(iter(node.users))) == "batch_norm"


class Layer:
    """One convolution or linear layer as a regression: rows of inputs, rows of what it should compute from them.  ``weight``: the one it
    has."""

    def __init__(self, node: fx.Node, weight: Tensor) -> None:
        self.node, self.weight = node, weight.detach()
        self.linear = name_of(node) == "linear"
        self.groups = 1 if self.linear else groups_of(node)
        self.columns = self.weight[0].numel()
        """Inputs of one output."""

    def solved(self, values: Tensor, wanted: Tensor) -> dict[fx.Node, Tensor]:
        """The new weight and bias, by their nodes, that come nearest to ``wanted`` from the inputs ``values``; nothing where the layer is
        too wide, or was given what is not a number."""
        return self.solved_from(values, self.sampled(wanted))

    def solved_from(self, values: Tensor, wanted: Tensor) -> dict[fx.Node, Tensor]:
        """The same from what :meth:`sampled` took of what is wanted."""
        if self.columns > MOST_COLUMNS:
            return {}
        weight, bias = argument(self.node, 1), argument(self.node, 2)
        new, shift = self._solve(self._rows(values), wanted, centered=bias is not None or _normalised(self.node))
        if not bool(new.isfinite().all() and shift.isfinite().all()):
            return {}
        return {weight: new} if bias is None else {weight: new, bias: shift}

    def sampled(self, wanted: Tensor) -> Tensor:
        """What the layer computes at the positions that it is solved on: (rows, groups, outputs of a group)."""
        if self.linear:
            rows = wanted.reshape(-1, wanted.shape[-1])
        else:
            rows = wanted.flatten(2)[:, :, self._places(len(wanted), wanted.shape[2:])[0].to(wanted.device)].movedim(2, 1).flatten(0, 1)
        return self._some(rows).reshape(-1, self.groups, self.weight.shape[0] // self.groups)

    def _rows(self, values: Tensor) -> Tensor:
        """Its inputs there: (rows, groups, columns)."""
        if self.linear:
            return self._some(values.reshape(-1, values.shape[-1]).unsqueeze(1))
        stride, sides, dilation = self._geometry()
        values = nn.functional.pad(values, [side for pair in reversed(sides) for side in pair])
        size, windows = values.shape[2:], self.weight.shape[2:]
        outputs = [(n - d * (w - 1) - 1) // s + 1 for n, w, s, d in zip(size, windows, stride, dilation, strict=True)]
        places = self._places(len(values), outputs)[1]
        offsets = torch.cartesian_prod(*(torch.arange(window) for window in windows)).reshape(-1, len(windows))
        index = places[:, None] * torch.tensor(stride) + offsets[None] * torch.tensor(dilation)  # (places, window, dims)
        flat = torch.zeros(index.shape[:-1], dtype=torch.int64)
        for dim in range(len(windows)):
            flat = flat * size[dim] + index[..., dim]
        taken = values.flatten(2)[:, :, flat.to(values.device)]  # (batch, channels, places, window)
        return self._some(taken.movedim(2, 1).reshape(len(values) * len(places), self.groups, -1))

    def _geometry(self) -> tuple[tuple[Any, ...], list[tuple[int, int]], tuple[Any, ...]]:
        """Stride, padding before and after, and dilation, of every dimension."""
        dims, windows = self.weight.dim() - 2, self.weight.shape[2:]
        stride, padding, dilation = (_tuple(self.node, place, name, default, dims) for place, name, default in _GEOMETRY)
        sides = [(pad, pad) if not isinstance(pad, str) else (0, 0) for pad in padding]
        if self.node.args and "same" in padding:
            sides = [((d * (w - 1)) // 2, d * (w - 1) - (d * (w - 1)) // 2) for w, d in zip(windows, dilation, strict=True)]
        return stride, sides, dilation

    def _places(self, samples: int, outputs: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Positions of one sample's output that are taken, flat and by dimension."""
        places = torch.cartesian_prod(*(torch.arange(size) for size in outputs)).reshape(-1, len(outputs))
        most = math.ceil(max(ROWS, 4 * self.columns) / samples)
        chosen = torch.randperm(len(places), generator=torch.Generator().manual_seed(0))[:most]
        return chosen, places[chosen]

    def _some(self, rows: Tensor) -> Tensor:
        """At most as many rows as it is solved on."""
        most = max(ROWS, 4 * self.columns)
        if len(rows) <= most:
            return rows
        return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:most].to(rows.device)]

    def _solve(self, rows: Tensor, wanted: Tensor, centered: bool) -> tuple[Tensor, Tensor]:
        """New weights, in the shape of the old, and the bias that goes with them."""
        rows, wanted = rows.float().transpose(0, 1), wanted.float().transpose(0, 1)  # (groups, rows, ...)
        used = rows.abs().sum((0, 1)) > 0
        row_mean, wanted_mean = rows.mean(1, keepdim=True), wanted.mean(1, keepdim=True)
        if centered:
            rows, wanted = rows - row_mean, wanted - wanted_mean
        old = self.weight.float().reshape(self.groups, -1, self.columns)
        new = old.clone()
        rows = rows[..., used]
        gram = rows.transpose(1, 2) @ rows
        identity = torch.eye(gram.shape[-1], device=gram.device)
        ridge = DAMPING * gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * identity + 1e-9 * identity
        residual = wanted - rows @ old[..., used].transpose(1, 2)
        change = torch.linalg.solve(gram + ridge, rows.transpose(1, 2) @ residual)
        new[..., used] += change.transpose(1, 2)
        bias = wanted_mean - row_mean @ new.transpose(1, 2)
        return new.reshape(self.weight.shape).to(self.weight.dtype), bias.flatten().to(self.weight.dtype)


_GEOMETRY = ((3, "stride", 1), (4, "padding", 0), (5, "dilation", 1))


def _tuple(node: fx.Node, place: int, name: str, default: int, dims: int) -> tuple[Any, ...]:
    value = argument(node, place, name, default)
    if isinstance(value, (list, tuple)) and len(value) == dims:
        return tuple(value)
    return (value[0] if isinstance(value, (list, tuple)) else value,) * dims
