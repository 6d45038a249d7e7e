"""A plan applied to the exported graph, where sizes are baked into the user's code."""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Callable
from typing import Any, NoReturn, cast

import numpy as np
import torch
from torch import Tensor, fx, nn

from edgeprune.errors import PlanError
from edgeprune.graph import Analysis, Block
from edgeprune.graph.constants import constant
from edgeprune.graph.flow import ParamView, name_of, shape_of
from edgeprune.graph.nodes import argument
from edgeprune.graph.registry import REWRITERS
from edgeprune.surgery.modes import TrainableGraph
from edgeprune.surgery.parameters import box_shape, replace_tensors

aten = torch.ops.aten
VIEWS = frozenset({
    "slice", "select", "view", "permute", "transpose", "swapaxes", "t", "movedim", "unsqueeze", "squeeze", "narrow", "expand", "expand_as",
    "getitem", "split", "split_with_sizes", "chunk", "unbind", "detach", "alias", "unflatten", "reshape", "flatten",
})  # fmt: skip
"""Operations whose result shares its operand's memory."""
IDEMPOTENT = (aten.relu.default, aten.relu6.default, aten.hardtanh.default)


class Cut:
    """What rewriters ask: shapes before and after, and which places along a dimension stay.  Nodes are those of ``module``, the new
    graph."""

    def __init__(
        self, analysis: Analysis, gone: np.ndarray, masks: dict[str, Tensor], source: fx.GraphModule, module: fx.GraphModule
    ) -> None:
        self.analysis, self.gone, self.masks, self.source, self.module = analysis, gone, masks, source, module
        self.original = {node.name: node for node in source.graph.nodes}

    def old_shape(self, node: fx.Node) -> tuple[int, ...]:
        """The shape before, at the example's batch size."""
        return shape_of(self.original[node.name])

    def old_parts(self, node: fx.Node) -> list[Tensor]:
        """The label arrays of a node with several results, before."""
        return list(self.analysis.flow.values[self.original[node.name]])

    def new_shape(self, node: fx.Node) -> tuple[int, ...]:
        """The shape after."""
        old, stays = self.old_shape(node), self._stays(node)
        if stays is None:
            return old
        shape = box_shape(stays)
        if shape is None:
            self.refuse(node, "is left with rows of unequal length")
        return tuple(left if stays.shape[dim] > 1 else old[dim] for dim, left in enumerate(shape))

    def kept_along(self, node: fx.Node, dim: int) -> Tensor | None:
        """Which places along ``dim`` stay, (size,) bool; None when all do."""
        stays = self._stays(node)
        if stays is None or stays.shape[dim % stays.dim()] == 1 or bool(stays.all()):
            return None
        rows = stays.movedim(dim, -1).reshape(-1, stays.shape[dim])
        kept = rows.any(0)
        same = bool((rows[rows.any(1)] == kept).all())  # a row of which nothing stays has gone whole
        if not same and int(kept.sum()) != self.new_shape(node)[dim]:
            self.refuse(node, "keeps different channels in different rows")
        return None if bool(kept.all()) else kept

    def lengths_along(self, node: fx.Node, dim: int, lengths: list[int]) -> list[int] | None:
        """What is left of parts of these ``lengths`` along ``dim``; None when all is.  Rows may keep other places, but as many."""
        stays = self._stays(node)
        if stays is None or stays.shape[dim % stays.dim()] == 1 or bool(stays.all()):
            return None
        rows = stays.movedim(dim, -1).reshape(-1, stays.shape[dim])
        counts = torch.stack([part.sum(1) for part in rows[rows.any(1)].split_with_sizes(lengths, 1)], 1)
        if not bool((counts == counts[0]).all()):
            self.refuse(node, "keeps different channels in different rows")
        return [int(count) for count in counts[0]]

    def resized(self, node: fx.Node, sizes: list[Any], old: tuple[int, ...], new: tuple[int, ...]) -> list[Any]:
        """``sizes`` written in a node, corrected where ``old`` became ``new``; those that are computed are scaled."""
        result = []
        for size, before, after in zip(sizes, old, new, strict=True):
            if before == after or size == -1 or (isinstance(size, int) and size != before):
                result.append(size)
            elif isinstance(size, int):
                result.append(after)
            else:
                result.append(self._scaled(node, size, before, after))
        return result

    def _scaled(self, node: fx.Node, size: fx.Node, before: int, after: int) -> fx.Node:
        divisor = math.gcd(before, after)
        with self.module.graph.inserting_before(node):
            product = self.module.graph.call_function(operator.mul, (size, after // divisor))
            return self.module.graph.call_function(operator.floordiv, (product, before // divisor))

    def value(self, argument: Any) -> Tensor:
        """What an argument that depends on no input computes, in the original."""
        value = constant(self.source, self.original[argument.name])
        assert value is not None
        return value

    def stored(self, node: fx.Node, value: Tensor) -> fx.Node:
        """A new constant, for use by ``node``."""
        name = f"_constant_{node.name}"
        self.module.register_buffer(name, value)
        with self.module.graph.inserting_before(node):
            return self.module.graph.get_attr(name)

    @staticmethod
    def renumbered(kept: Tensor, places: Tensor) -> Tensor:
        """Where the kept ones among ``places`` stand once the others are gone."""
        return (torch.cumsum(kept, 0) - 1)[places][kept[places]]

    @staticmethod
    def refuse(node: fx.Node, why: str) -> NoReturn:
        """The graph cannot express it."""
        raise PlanError(f"{node.target} at {node.name} {why}: this plan cannot be written into the graph")

    def _stays(self, node: fx.Node) -> Tensor | None:
        return stays_of(self.analysis, self.gone, self.masks, self.original[node.name])


def stays_of(analysis: Analysis, gone: np.ndarray, masks: dict[str, Tensor], node: fx.Node) -> Tensor | None:
    """Which elements of what ``node`` computes stay (constant dimensions narrowed to size 1); None for what is not one tensor."""
    value = analysis.flow.values.get(node)
    if isinstance(value, ParamView):
        mask = masks.get(value.name)
        if mask is None or value.index is None:
            return mask
        return mask.expand(value.stored).flatten()[value.index]
    channels = analysis.node_channels(node)
    return None if channels is None else torch.from_numpy(np.asarray(~gone[channels.numpy()]))


def apply_to_graph(
    model: nn.Module, analysis: Analysis, gone: np.ndarray, masks: dict[str, Tensor], blocks: list[Block]
) -> fx.GraphModule | TrainableGraph:
    """The exported graph with ``model``'s weights made smaller and its sizes corrected, without ``blocks``, trainable: batch norm and
    dropout follow train/eval, and what else only training does has a graph of its own.

    Raises :class:`PlanError` when an operation cannot express the cut, or ``model``'s weights have other shapes than were analysed.
    """
    captured = analysis.captured
    evaluation = _rewritten(model, analysis, captured.module, gone, masks, blocks)
    if captured.training is None or captured.training.graph is None:
        return evaluation
    training = _rewritten(model, analysis, captured.training.graph, gone, masks, analysis.in_training(blocks))
    return TrainableGraph(evaluation, training)


def _rewritten(
    model: nn.Module, analysis: Analysis, source: fx.GraphModule, gone: np.ndarray, masks: dict[str, Tensor], blocks: list[Block]
) -> fx.GraphModule:
    """One graph, cut."""
    module = copy.deepcopy(source)
    _load(module, model)
    cut = Cut(analysis, gone, masks, source, module)
    lost = {name for block in blocks for name in block.parameters}
    held = set(dict(module.named_parameters(remove_duplicate=False))) | set(dict(module.named_buffers(remove_duplicate=False)))
    replace_tensors(module, {name: mask for name, mask in masks.items() if name not in lost and name in held})
    _functional(module)
    _drop(module, blocks)
    for node in list(module.graph.nodes):
        known = REWRITERS.get(node.target)
        if known is not None:
            known(cut, node)
    _follow_training_mode(module, model if source is not analysis.captured.module else None)
    module.graph.eliminate_dead_code()
    module.recompile()
    for node in module.graph.nodes:
        node.meta.clear()
    return fx.GraphModule(module, module.graph)


def _load(module: fx.GraphModule, model: nn.Module) -> None:
    """The captured graph shares its weights with the model that was analysed: a copy of it takes those of ``model``."""
    state = model.state_dict()
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if name in state and state[name].shape != tensor.shape:
                raise PlanError(f"the model's {name} has a different shape than when it was analysed")
            if name in state:
                tensor.copy_(state[name])


def _functional(module: fx.GraphModule) -> None:
    """In-place operations as ordinary ones: without the values between, they would change what others read."""
    for node in module.graph.nodes:
        name = str(node.target)
        base = name.split(".")[1] if name.startswith("aten.") else ""
        if not base.endswith("_") or base.startswith("_") or not hasattr(aten, base[:-1]):
            continue
        packet, overload = getattr(aten, base[:-1]), name.split(".")[2]
        if overload in packet.overloads() and not _changes_a_view(node):
            before = node.args[0]
            node.target = getattr(packet, overload)
            before.replace_all_uses_with(node, delete_user_cb=lambda user, changed=node: _after(user, changed))


def is_view(node: fx.Node) -> bool:
    """Whether what a node computes is a part of its operand."""
    return node.op == "call_function" and name_of(node) in VIEWS


def _changes_a_view(node: fx.Node) -> bool:
    """Whether an in-place operation writes into a part of something that is read later."""
    part = argument(node, 0)
    while isinstance(part, fx.Node) and is_view(part):
        part = argument(part, 0)
        if any(_after(user, node) for user in part.users):
            return True
    return False


def _after(user: fx.Node, node: fx.Node) -> bool:
    return user is not node and node < user


def _drop(module: fx.GraphModule, blocks: list[Block]) -> None:
    """Let the shortcut stand where the addition was."""
    by_name = {node.name: node for node in module.graph.nodes}
    for block in blocks:
        addition = by_name[block.addition.name]
        shortcut = next(part for part in addition.all_input_nodes if part.name not in {node.name for node in block.nodes})
        for user in list(addition.users):
            if user.target == shortcut.target and user.target in IDEMPOTENT:  # relu(relu(x))
                user.replace_all_uses_with(shortcut)
                module.graph.erase_node(user)
        addition.replace_all_uses_with(shortcut)
        module.graph.erase_node(addition)
        for node in reversed([by_name[node.name] for node in _in_order(block)]):
            module.graph.erase_node(node)
        for node in list(module.graph.nodes):
            if node.op == "get_attr" and not node.users:
                module.graph.erase_node(node)


def _in_order(block: Block) -> list[fx.Node]:
    """The block's nodes in the order of the graph."""
    return [node for node in block.addition.graph.nodes if node in block.nodes]


def _follow_training_mode(module: fx.GraphModule, trained: nn.Module | None) -> None:
    """Export fixed the mode of batch norm and dropout: put modules in their place. In the graph of a training step, that of ``trained``,
    only in the place of its batch norms that measure statistics: the others stay as they are, and dropout drops already."""
    makers: dict[Any, Callable[[fx.GraphModule, fx.Node], tuple[str, nn.Module] | None]] = {
        aten.batch_norm.default: _batch_norm_module,
        aten.dropout.default: _dropout_module,
        aten.dropout_.default: _dropout_module,
    }
    for node in list(module.graph.nodes):
        settled = trained is not None and not _measures(trained, node)
        made = makers[node.target](module, node) if node.target in makers and not settled else None
        if made is not None:
            name, replacement = made
            module.set_submodule(name, replacement)
            with module.graph.inserting_before(node):
                call = module.graph.call_module(name, (node.args[0],))
            node.replace_all_uses_with(call)
            module.graph.erase_node(node)


def _measures(model: nn.Module, node: fx.Node) -> bool:
    """Whether ``node``, of a training step, is a batch-norm module of ``model`` that takes the batch's statistics."""
    if node.target is not aten.batch_norm.default or not node.args[5] or not isinstance(node.args[3], fx.Node):
        return False
    owner = str(node.args[3].target).rpartition(".")[0]
    return isinstance(model.get_submodule(owner), nn.modules.batchnorm._BatchNorm)


def _dropout_module(module: fx.GraphModule, node: fx.Node) -> tuple[str, nn.Module]:
    return f"{node.name}_module", nn.Dropout(float(argument(node, 1)))


def _batch_norm_module(module: fx.GraphModule, node: fx.Node) -> tuple[str, nn.Module] | None:
    stored = [part for part in node.args[1:5] if isinstance(part, fx.Node) and part.op == "get_attr"]
    if len(stored) != 4:
        return None
    owners = {str(part.target).rpartition(".")[0] for part in stored}
    if len(owners) != 1 or "" in owners:
        return None
    owner = owners.pop()
    holder = module.get_submodule(owner)
    if isinstance(holder, nn.modules.batchnorm._BatchNorm):
        return owner, holder
    momentum, eps = float(argument(node, 6)), float(argument(node, 7))
    rank = len(shape_of(node))
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[rank]
    channels = cast(Tensor, holder.weight).shape[0]
    result = kind(channels, eps=eps, momentum=momentum)
    for name in ("weight", "bias", "running_mean", "running_var"):
        setattr(result, name, getattr(holder, name))
    tracked = getattr(holder, "num_batches_tracked", None)
    if isinstance(tracked, Tensor):
        result.num_batches_tracked = tracked
    return owner, result.eval()
