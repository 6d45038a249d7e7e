"""A task that is pruned in seconds: points about three centres, and a network of two hidden layers that tells them apart."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeprune import Task


class Points(nn.Module):
    """Two hidden layers."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(8, width), nn.Linear(width, width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.last(functional.relu(self.second(functional.relu(self.first(x)))))
        return scores


def points_task(width: int = 48) -> Task:
    """Trained, above 90 %."""
    generator = torch.Generator().manual_seed(0)
    centres = 2.0 * torch.randn(3, 8, generator=generator)
    targets = torch.randint(0, 3, (640,), generator=generator)
    inputs = centres[targets] + torch.randn(640, 8, generator=generator)
    batches = [(inputs[at : at + 64], targets[at : at + 64]) for at in range(0, 640, 64)]
    torch.manual_seed(0)
    model = Points(width)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for given, wanted in batches * 3:
        optimizer.zero_grad()
        functional.cross_entropy(model(given), wanted).backward()
        optimizer.step()
    return Task(model.eval(), (torch.zeros(1, 8),), train=batches[:8], validation=batches[8:], epochs=8, learning_rate=0.05, name="points")
