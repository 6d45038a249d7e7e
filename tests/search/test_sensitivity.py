"""Curves of what every width keeps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeprune.graph import analyze
from edgeprune.search.plan.sensitivity import importance_curves
from edgeprune.task import Task


class Twins(nn.Module):
    """Every hidden channel has a scaled twin, so that half of them can be made up for exactly."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 16), nn.Linear(16, 5)
        with torch.no_grad():
            self.first.weight[8:] = 2 * self.first.weight[:8]
            self.first.bias[8:] = 2 * self.first.bias[:8]

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.second(self.first(x).relu())
        return result


def test_after_reconstruction_a_width_costs_what_the_rest_cannot_make_up_for() -> None:
    torch.manual_seed(0)
    data = [(torch.randn(64, 6), torch.randint(0, 5, (64,))) for _ in range(6)]
    task = Task(Twins().eval(), (data[0][0][:1],), data, data)
    analysis = analyze(task.model, task.example_inputs)
    group = analysis.groups[0]
    saliency = {group.name: torch.arange(16.0)[None].numpy()}  # the first of each pair go first
    choices = {group.name: [2, 8, 16]}
    masked, solved = (importance_curves(task, analysis, saliency, choices, reconstructed=way)[group.name] for way in (False, True))
    assert masked[2] == solved[2] == 0.0
    assert solved[0] < solved[1] < 0
    prior = 0.05 * -solved[0] / 1.05 * 0.25  # all that is left of what half of the channels cost
    assert -solved[1] < 1.5 * prior
    assert masked[1] < 10 * solved[1]
