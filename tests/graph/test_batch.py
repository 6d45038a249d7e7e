"""A captured graph takes any number of samples in every input that holds samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeprune import analyze
from edgeprune.surgery import apply, plan_from_saliency, reconstruct
from edgeprune.task import Task
from edgeprune.testing.networks import awake
from edgeprune.tuning import finetune, outputs_on


class Attention(nn.Module):
    """Attention with its heads in one ``reshape``, whose sizes are numbers."""

    def __init__(self, width: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        result: Tensor = x + self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return result


class Named(nn.Module):
    """Inputs in a dict, one of them in a list, beside a number, a table without samples and an absent one."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.extra, self.attention = nn.Linear(6, 16), nn.Linear(5, 16), Attention()
        self.up, self.head = nn.Linear(16, 24), nn.Linear(24, 3)

    def forward(self, inputs: dict[str, Any]) -> Tensor:
        x = self.tokens(inputs["x"]) * inputs["scale"] + inputs["table"] + self.extra(inputs["more"][0]).unsqueeze(1)
        if inputs["mask"] is not None:
            x = x * inputs["mask"]
        scores: Tensor = self.head(self.up(self.attention(x)).relu().mean(1))
        return scores


class Remembering(nn.Module):
    """Keeps a table for the shape it saw last, and compares shapes, as detectors do with their anchors; a width is in its code."""

    seen: Any = None
    table: Any = None

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.body(x).relu().split((8, 8), 1)
        maps = self.head(torch.cat([left, right.sigmoid()], 1))
        if self.seen != maps.shape:
            self.seen = maps.shape
            self.table = torch.arange(float(maps.shape[2] * maps.shape[3]))
        result: Tensor = maps.view(maps.shape[0], 4, -1) + self.table
        return result


def named(size: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(size)
    table = torch.linspace(-1, 1, 7 * 16).reshape(7, 16)
    x, more = torch.randn(size, 7, 6, generator=generator), torch.randn(size, 5, generator=generator)
    return {"x": x, "more": [more], "scale": 2.0, "table": table, "mask": None}


def image(size: int) -> Tensor:
    return torch.randn(size, 3, 6, 6, generator=torch.Generator().manual_seed(size))


@pytest.mark.parametrize(("model", "sample"), [(Named, named), (Remembering, image)])
def test_a_cut_graph_takes_batches_of_any_size_and_trains(model: type[nn.Module], sample: Any) -> None:
    torch.manual_seed(0)
    dense = model().eval()
    analysis = analyze(dense, (sample(1),))
    assert analysis.captured.any_batch
    saliency = {group.name: np.random.default_rng(0).random(group.rows.shape) for group in analysis.groups}
    plan = plan_from_saliency(analysis, saliency, {group.name: max(1, group.size // 2) for group in analysis.groups})
    data = [((sample(size),), torch.zeros(())) for size in (4, 4, 3)]
    pruned = apply(reconstruct(dense, analysis, plan, data), analysis, plan, "graph")
    for size in (1, 2, 5):
        assert pruned.model(sample(size)).shape == dense(sample(size)).shape
    task = Task(dense, (sample(1),), train=data, loss=lambda outputs, targets: outputs.square().mean(), epochs=1, learning_rate=1e-3)
    outputs_on(dense, data)  # what it remembers here, it trains with below
    assert finetune(pruned.model, task, teacher=dense).steps == finetune(dense, task).steps == 3


def test_analysis_leaves_what_a_model_remembers() -> None:
    torch.manual_seed(0)
    model = Remembering().eval()
    model(image(1))
    table = model.table
    analyze(model, (image(1),))
    assert model.table is table
    assert model.seen == (1, 4, 6, 6)
    assert model(image(3)).shape == (3, 4, 36)


class FixedBatch(nn.Module):
    """Reads its batch size as a number and writes it into its views and constants."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        n = int(x.shape[0])
        x = self.first(x.reshape(n * 5, 8)).relu()
        x = self.second(x).reshape(n, 5, 16) + torch.zeros(n, 1, 16)
        result: Tensor = self.head(x.mean(1))
        return result


def test_a_batch_size_written_into_the_model_becomes_any_batch_size() -> None:
    model = awake(FixedBatch())
    analysis = analyze(model, (torch.randn(1, 5, 8),))
    assert analysis.captured.any_batch
    saliency = {group.name: np.random.default_rng(0).random(group.rows.shape) for group in analysis.groups}
    plan = plan_from_saliency(analysis, saliency, {group.name: group.size // 2 for group in analysis.groups})
    pruned = apply(model, analysis, plan, "graph")
    assert pruned.model(torch.randn(7, 5, 8)).shape == (7, 3)
