"""An average of a model's weights while it trains."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of the parameters that train: after every step each moves ``1 - decay`` of the way to its present value.

    Early on the decay is less, ``(1 + step) / (10 + step)``, so that the start is forgotten (as TensorFlow's
    ``ExponentialMovingAverage`` does; Polyak & Juditsky, "Acceleration of stochastic approximation by averaging", 1992).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self.values: dict[str, Tensor] = {name: value.detach().clone() for name, value in self._parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After optimizer step ``step`` (from 0)."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        for name, value in self.values.items():
            value.lerp_(self._parameters[name].detach(), weight)

    @torch.no_grad()
    def apply(self) -> None:
        """Give the model the average."""
        for name, value in self.values.items():
            self._parameters[name].copy_(value)
