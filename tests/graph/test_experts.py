"""Mixtures of experts lose the inner channels of all experts together, and the channels around them as any other layer does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeprune.graph import analyze
from edgeprune.surgery import apply, plan_from_saliency

ROWS, EXPERTS, WIDTH, INNER = 6, 4, 16, 24


@pytest.fixture(autouse=True, scope="module")
def _grouped_product() -> None:
    """What defines it takes seconds to import: not while tests are collected."""
    pytest.importorskip("transformers.integrations.moe")


class Experts(nn.Module):
    """Each token goes to two of four experts, as transformers' models do it."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, gates = kind, 2 if kind == "gated" else 1
        self.stem, self.router, self.head = nn.Linear(8, WIDTH), nn.Linear(WIDTH, EXPERTS), nn.Linear(WIDTH, 3)
        up, down = 0.3 * torch.randn(EXPERTS, gates * INNER, WIDTH), 0.3 * torch.randn(EXPERTS, WIDTH, INNER)
        if kind == "in by out":
            up, down = up.transpose(1, 2).contiguous(), down.transpose(1, 2).contiguous()
        self.up, self.down = nn.Parameter(up), nn.Parameter(down)
        self.up_bias, self.down_bias = nn.Parameter(torch.randn(EXPERTS, gates * INNER)), nn.Parameter(torch.randn(EXPERTS, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        tokens = x.reshape(-1, x.shape[-1])
        scores: Tensor = self.head(x + self.sent(tokens).reshape(x.shape))
        return scores

    def sent(self, tokens: Tensor) -> Tensor:
        shares, chosen = self.router(tokens).softmax(-1).topk(2, -1)
        experts, order = chosen.reshape(-1).sort(stable=True)
        ends = torch.histc(experts.float(), EXPERTS, 0, EXPERTS - 1).cumsum(0, dtype=torch.int32)
        product: Any = torch.ops.transformers.grouped_mm_fallback
        up, down = (self.up, self.down) if self.kind == "in by out" else (self.up.transpose(1, 2), self.down.transpose(1, 2))
        y = product(tokens[order // 2], up, ends)
        y = y + self.up_bias[experts] if self.kind == "biased" else y
        y = functional.silu(y.chunk(2, -1)[0]) * y.chunk(2, -1)[1] if self.kind == "gated" else y.relu()
        y = product(y, down, ends)
        y = y + self.down_bias[experts] if self.kind == "biased" else y
        back = torch.empty_like(order)
        back[order] = torch.arange(order.shape[0])
        return (y * shares.reshape(-1)[order].unsqueeze(-1))[back].reshape(tokens.shape[0], 2, -1).sum(1)


@pytest.mark.parametrize("kind", ["gated", "biased", "in by out"])
def test_experts_are_cut_exactly(kind: str) -> None:
    torch.manual_seed(0)
    model, inputs = Experts(kind).eval(), (torch.randn(1, ROWS, 8),)
    analysis = analyze(model, inputs)
    assert analysis.unsupported == []
    assert sorted(group.size for group in analysis.groups) == [WIDTH, INNER]
    random = np.random.default_rng(0)
    saliency = {group.name: random.random(group.rows.shape) for group in analysis.groups}
    pruned = apply(model, analysis, plan_from_saliency(analysis, saliency, {group.name: group.size // 2 for group in analysis.groups}))
    assert pruned.error < 1e-5
    sizes = {name: tuple(value.shape) for name, value in pruned.model.named_parameters()}
    assert sorted(sizes["up"][1:]) == sorted((INNER if kind == "gated" else INNER // 2, WIDTH // 2))
    assert sorted(sizes["down"][1:]) == [WIDTH // 2, INNER // 2]
    assert sizes["router.weight"] == (EXPERTS, WIDTH // 2)
    assert pruned.model(torch.randn(5, ROWS, 8)).shape == (5, ROWS, 3)
    pruned.model.train()(torch.randn(4, ROWS, 8)).sum().backward()
    assert pruned.model.get_parameter("up").grad is not None
