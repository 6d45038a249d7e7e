"""What nodes of the captured graph compute on data, and where channels are read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from edgeprune.errors import InputError
from edgeprune.graph import Analysis
from edgeprune.graph.batch import batch_of
from edgeprune.graph.capture import eval_mode
from edgeprune.graph.flow import ParamView
from edgeprune.importance.data import SAMPLES, captured_size, example_size, pieces
from edgeprune.placement import PlacedInterpreter, device_of
from edgeprune.task import Task


class Watch(PlacedInterpreter):
    """Runs the captured graph with ``model``'s weights and keeps what some of its nodes compute."""

    def __init__(self, model: nn.Module, analysis: Analysis, wanted: set[fx.Node]) -> None:
        super().__init__(analysis.captured.module, device_of(model))
        self.wanted, self.found = wanted, dict[fx.Node, Tensor]()
        self.state = {**model.state_dict(keep_vars=True), **dict(model.named_buffers())}

    def values_of(self, inputs: Any) -> dict[fx.Node, Tensor]:
        """What the wanted nodes compute on ``inputs``."""
        self.found = {}
        self.run(*pytree.tree_leaves(inputs), enable_io_processing=False)
        return self.found

    def run_node(self, n: fx.Node) -> Any:
        if n.op == "get_attr" and str(n.target) in self.state:
            return self.state[str(n.target)]
        value = super().run_node(n)
        if n in self.wanted:
            self.found[n] = value.clone()  # an activation may be written over it
        return value


def require_whole(analysis: Analysis, what: str) -> None:
    """Raises :class:`InputError` where the model was captured by submodule: nothing is known of what lies between its parts."""
    if analysis.captured.parts:
        raise InputError(f"{what} needs a model that was captured whole", remedy=str(analysis.captured.whole))


def observe(task: Task, analysis: Analysis, places: dict[fx.Node, Tensor]) -> Iterator[dict[fx.Node, Tensor]]:
    """What the nodes in ``places`` (with their channels) compute, for one piece of the training batches after the other, in eval mode."""
    fixed = captured_size(analysis)
    if fixed is None and any(_mixes_batch(node, channels) for node, channels in places.items()):
        fixed = example_size(analysis)
    watch, fitting = Watch(task.model, analysis, set(places)), 0
    with eval_mode(task.model), torch.no_grad():
        for piece in pieces(task, fixed or SAMPLES):
            if fixed is None or batch_of(piece.leaves) == fixed:
                yield watch.values_of(piece.leaves)
                fitting += 1
    if not fitting:
        raise InputError(
            f"the model was captured for {fixed} samples at a time, and no training batch of task {task.name} has as many",
            remedy="Give larger batches, or use l2 or taylor.",
        )


def _mixes_batch(node: fx.Node, channels: Tensor) -> bool:
    """Whether channels change along a dimension that depends on the batch (batch and heads in one): labels then fit one size only."""
    return any(isinstance(size, torch.SymInt) and channels.shape[dim] > 1 for dim, size in enumerate(node.meta["val"].shape))


def reading_places(analysis: Analysis) -> dict[fx.Node, Tensor]:
    """The nodes whose results carry channels to where weights read them, each with the channel of every element (0: not read there;
    constant dimensions have size 1). Channels that no weight reads are seen where they are carried last.

    Where a result was pooled on the way the larger one before is taken: what a nonlinearity cut off is no longer seen after a mean.
    """
    places: dict[fx.Node, Tensor] = {}
    last: dict[int, fx.Node] = {}
    carried = _carried(analysis)
    for node, channels in carried.items():
        last.update(dict.fromkeys(np.unique(channels.numpy()).tolist(), node))
    seen: set[int] = set()
    for node in analysis.captured.module.graph.nodes:
        read = _read_by(analysis, node)
        for source in node.all_input_nodes if len(read) else ():
            if source in carried:
                _add(places, _before_pooling(source, carried), carried, read)
                seen.update(np.intersect1d(carried[source].numpy(), read).tolist())
    for channel in np.concatenate([group.rows.ravel() for group in analysis.groups]).tolist():
        if channel not in seen and channel in last:
            _add(places, last[channel], carried, np.array([channel]))
    return places


def _carried(analysis: Analysis) -> dict[fx.Node, Tensor]:
    """The nodes that compute floating tensors from the model's inputs, with their channels."""
    depends, result = set[fx.Node](), dict[fx.Node, Tensor]()
    for node in analysis.captured.module.graph.nodes:
        value = analysis.flow.values.get(node)
        tensors = isinstance(value, (Tensor, list, tuple))
        if tensors and (node.op == "placeholder" or any(part in depends for part in node.all_input_nodes)):
            depends.add(node)
            channels = analysis.node_channels(node)
            if node.op == "call_function" and channels is not None and bool(channels.any()) and node.meta["val"].is_floating_point():
                result[node] = channels
    return result


def _read_by(analysis: Analysis, node: fx.Node) -> np.ndarray:
    """The channels that the weights of a node read."""
    stored = [analysis.flow.values.get(part) for part in node.all_input_nodes]
    names = {value.name for value in stored if isinstance(value, ParamView)}
    read = [
        np.unique(analysis.channels_of(labels).numpy())
        for owner, labels in analysis.flow.owners.items()
        if owner[0] in names and owner not in analysis.flow.producing
    ]
    return np.setdiff1d(np.concatenate(read), 0) if read else np.zeros(0, np.int64)


def _before_pooling(node: fx.Node, carried: dict[fx.Node, Tensor]) -> fx.Node:
    """Of the nodes that lead to ``node`` one by one, carrying the same channels, the nearest of the largest."""
    largest, channels = node, np.unique(carried[node].numpy())
    while True:
        sources = [part for part in node.all_input_nodes if part in carried]
        if len(sources) != 1 or not np.array_equal(np.unique(carried[sources[0]].numpy()), channels):
            return largest
        node = sources[0]
        if _numel(node) > _numel(largest):
            largest = node


def _numel(node: fx.Node) -> int:
    return int(np.prod([size if isinstance(size, int) else size.node.hint for size in node.meta["val"].shape]))


def _add(places: dict[fx.Node, Tensor], node: fx.Node, carried: dict[fx.Node, Tensor], read: np.ndarray) -> None:
    kept = torch.from_numpy(np.where(np.isin(carried[node].numpy(), read), carried[node].numpy(), 0))
    places[node] = torch.maximum(places[node], kept) if node in places else kept
