"""Gates on channels that learn, while a model trains, which of them a budget can do without."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from edgeprune.errors import InputError
from edgeprune.graph import Analysis
from edgeprune.surgery import Pruned
from edgeprune.surgery.parameters import compacted, keep_masks
from edgeprune.surgery.plan import removed_channels
from edgeprune.tuning.optimizer import MOMENTUM


class GatedModel(nn.Module):
    """``pruned``'s model with a gate on every channel of a group: all weights that read a channel are multiplied by its gate.

    A gate of zero is the channel removed. Every backward pass adds ``(gate * d loss / d gate)²`` to what :meth:`saliency` averages, the
    first-order loss of closing it, and adds to the gate's gradient the one of the penalty ``strength * max(0, cost of the open gates /
    cost of all - target)``, which drives the model to its budget.
    Sources: Molchanov et al., "Importance Estimation for Neural Network Pruning", 2019 (the gates); Liu et al., "Learning Efficient
    Convolutional Networks through Network Slimming", 2017 (a penalty on scales while training).
    """

    taylor: Tensor
    count: Tensor
    _price: Tensor

    def __init__(self, pruned: Pruned, analysis: Analysis, cost: Mapping[str, float], target: float, steps: int, rate: float) -> None:
        """``cost``: by group, of one channel in any unit; ``target``: the share of the cost of all that may stay; ``steps`` and the mean
        learning ``rate`` set the penalty's strength: alone, it would close a gate of mean cost within them."""
        super().__init__()
        self.model = pruned.model
        self._places = _reading_places(pruned, analysis)
        if not self._places:
            raise InputError(
                "online pruning is not possible here: no weight reads the channels of a group, so there is nothing to gate",
                remedy="Use --schedule one-shot.",
            )
        self._rows = {group.name: group.rows for group in analysis.groups}
        prices = torch.zeros(len(analysis.roots))
        for group in analysis.groups:
            prices[group.rows.ravel()] = cost[group.name]
        alive = torch.zeros(len(analysis.roots), dtype=torch.bool)
        for _, index in self._places:
            alive[index.flatten()] = True
        self._alive = alive.numpy()
        prices[~alive] = 0.0
        self.register_buffer("_price", prices / prices.sum().clamp(min=1e-30), persistent=False)
        self._target, self._mean_price = target, float(self._price[self._price > 0].mean()) if bool((self._price > 0).any()) else 1.0
        self._strength = (1 - MOMENTUM) / (rate * max(steps, 1))
        self.gates = nn.Parameter(torch.ones(len(analysis.roots)))
        self.register_buffer("taylor", torch.zeros(len(analysis.roots)))
        self.register_buffer("count", torch.zeros(()))

    def forward(self, *inputs: Any, **named: Any) -> object:
        """What the model computes with its gates."""
        return functional_call(self.model, self._gated(), inputs, named)

    def _gated(self) -> dict[str, Tensor]:
        gates = self.gates.view_as(self.gates)
        if gates.requires_grad:
            gates.register_hook(self._learned)  # type: ignore[no-untyped-call]
        gates = gates.clamp(min=0)
        found: dict[str, Tensor] = {}
        for name, index in self._places:
            found[name] = found.get(name, self.model.get_parameter(name)) * gates[index.to(gates.device)]
        return found

    def _learned(self, gradient: Tensor) -> Tensor:
        gates = self.gates.detach()
        self.taylor += (gradient * gates).square()
        self.count += 1
        excess = float((self._price * gates.clamp(min=0, max=1)).sum()) - self._target
        return gradient + self._strength * self._price / self._mean_price if excess > 0 else gradient

    def fold(self) -> None:
        """Multiply the gates into the weights; the model computes the same without them."""
        with torch.no_grad():
            for name, value in self._gated().items():
                self.model.get_parameter(name).copy_(value)
            self.gates.fill_(1.0)

    def saliency(self) -> dict[str, np.ndarray]:
        """For every group the (R, K) mean squared first-order loss of closing each gate; less than zero for channels that are gone."""
        mean = (self.taylor / self.count.clamp(min=1)).cpu().double().numpy()
        mean = np.where(self._alive, mean, -1e-30)
        return {name: mean[rows] for name, rows in self._rows.items()}


def _reading_places(pruned: Pruned, analysis: Analysis) -> list[tuple[str, Tensor]]:
    """Parameters of the pruned model that read channels, and for each of their elements (broadcast) which channel."""
    gone = removed_channels(analysis, pruned.plan)
    masks = keep_masks(analysis, gone)
    inside = np.zeros(len(analysis.roots), bool)
    for group in analysis.groups:
        inside[group.rows.ravel()] = True
    parameters = dict(pruned.model.named_parameters())
    found = []
    for owner, labels in analysis.flow.owners.items():
        name = owner[0]
        if owner in analysis.flow.producing or name not in parameters:
            continue
        channels = analysis.channels_of(labels)
        if not bool(torch.from_numpy(inside)[channels].all()):
            continue
        if name in masks:
            full = channels.expand(torch.broadcast_shapes(channels.shape, masks[name].shape))  # type: ignore[no-untyped-call]
            whole = [size if size > 1 else stored for size, stored in zip(full.shape, _stored_shape(analysis, name), strict=True)]
            channels = compacted(full.expand(whole), masks[name], name)
        found.append((name, channels))
    return found


def _stored_shape(analysis: Analysis, name: str) -> torch.Size:
    return analysis.captured.module.get_parameter(name).shape
