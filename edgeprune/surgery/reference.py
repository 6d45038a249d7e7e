"""The masked original where zeros are not the same as nothing: normalisations, means and products of activations."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import _pytree as pytree

from edgeprune.graph import Analysis
from edgeprune.graph.flow import writes_in_place
from edgeprune.graph.registry import REFERENCES
from edgeprune.placement import PlacedInterpreter, device_of
from edgeprune.surgery.rewrite import is_view, stays_of


def needs_reference(analysis: Analysis, module: fx.GraphModule, gone: np.ndarray, masks: dict[str, Tensor]) -> bool:
    """Whether an operation of ``module`` that mixes channels without a stored weight loses some of them."""
    for node in module.graph.nodes:
        if node.target in REFERENCES and not _has_own_statistics(node):
            for part in node.all_input_nodes:
                stays = stays_of(analysis, gone, masks, part)
                if stays is not None and not bool(stays.all()):
                    return True
    return False


def _has_own_statistics(node: fx.Node) -> bool:
    return node.target is torch.ops.aten.batch_norm.default and not node.args[5]


class Reference(nn.Module):
    """Computes, in the original's shapes, what the original would if the channels that go did not exist.

    The captured graph (or ``module``, that of a training step) with ``model``'s weights is run one operation at a time; every result is
    zero where its channels are gone, and normalisations count only what is left.  It shares nothing with how a model is cut but the labels.
    """

    def __init__(
        self, model: nn.Module, analysis: Analysis, gone: np.ndarray, masks: dict[str, Tensor], module: fx.GraphModule | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self._run = Masked(model, analysis, gone, masks, module)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """The output of the captured graph, of the model's own structure."""
        return self._run(*inputs, *named.values())


class Masked(PlacedInterpreter):
    """Runs the captured graph, or ``module``, with ``model``'s state, everything that goes zero or left out."""

    def __init__(
        self, model: nn.Module, analysis: Analysis, gone: np.ndarray, masks: dict[str, Tensor], module: fx.GraphModule | None = None
    ) -> None:
        super().__init__(analysis.captured.module if module is None else module, device_of(model))
        self.model, self.analysis = model, analysis
        self.masks, self.stays = masks, {}
        for node in self.graph.nodes:
            stays = stays_of(analysis, gone, masks, node)
            self.stays[node] = None if stays is None or bool(stays.all()) else stays
        self.inputs = [node.name for node in self.graph.nodes if node.op == "placeholder"]
        self._follow()

    def _follow(self) -> None:
        """Take the model's state from where it is now."""
        self.device = device_of(self.model)
        self.state = {**self.model.state_dict(keep_vars=True), **dict(self.model.named_buffers())}
        self.masks = {name: mask.to(self.device) for name, mask in self.masks.items()}
        self.stays = {node: None if stays is None else stays.to(self.device) for node, stays in self.stays.items()}

    def __call__(self, *inputs: Any) -> Any:
        flat = pytree.tree_leaves(inputs)
        if device_of(self.model) != self.device:
            self._follow()
        result = self.run(*flat[: len(self.inputs)], enable_io_processing=False)
        return self.graph.process_outputs(result)

    def run_node(self, n: fx.Node) -> Any:
        if n.op == "get_attr":
            name = str(n.target)
            value = self.state[name] if name in self.state else self.fetch_attr(name).to(self.device)
            return value * self.masks[name] if name in self.masks else value
        known = REFERENCES.get(n.target)
        norm = self._batch_norm(n)
        if norm is not None:
            value = self.normalized(norm, n)
        elif known is None:
            value = super().run_node(n)
        else:
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            first = n.all_input_nodes[0] if n.all_input_nodes else None
            value = known(n, self.stays.get(first), *args, **kwargs)
        stays = self.stays[n]
        if stays is None or not isinstance(value, Tensor) or not value.is_floating_point() or is_view(n):
            return value  # a view must stay one: what is written into it changes what it is a part of
        if writes_in_place(n):
            return value.masked_fill_(~stays, 0.0)
        return value.masked_fill(~stays, 0.0)

    def normalized(self, norm: _BatchNorm, node: fx.Node) -> Tensor:
        """What the batch norm at ``node`` computes: by its module, which measures its statistics again in training mode.  The module's own
        forward may do more (timm's)."""
        return _BatchNorm.forward(norm, self.fetch_args_kwargs_from_env(node)[0][0])

    def _batch_norm(self, node: fx.Node) -> _BatchNorm | None:
        if node.target is not torch.ops.aten.batch_norm.default or not isinstance(node.args[3], fx.Node):
            return None
        owner = str(node.args[3].target).rpartition(".")[0]
        module = self.model.get_submodule(owner) if node.args[3].op == "get_attr" else None
        return module if isinstance(module, _BatchNorm) else None
