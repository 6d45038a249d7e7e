"""Random networks of sequence and image operations: whatever they are made of, every cut equals the masked reference."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from edgeprune.errors import NothingToPruneError
from edgeprune.graph import analyze
from edgeprune.surgery import Plan, apply, plan_from_saliency
from edgeprune.testing.networks import awake

WIDTH = 16
OPERATIONS = (
    "attention", "gated", "recurrent", "norm", "rms", "convolution", "grouped", "group norm", "concatenated", "shuffled", "table",
    "einsum", "scaled by a mean", "stacked", "post-norm",
)  # fmt: skip


class Step(nn.Module):
    """One operation on (N, L, 16) sequences."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.a, self.b, self.c = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.qkv, self.norm, self.rms = nn.Linear(WIDTH, 3 * WIDTH), nn.LayerNorm(WIDTH), nn.RMSNorm(WIDTH)
        self.rnn = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.conv, self.grouped = nn.Conv1d(WIDTH, WIDTH, 3, padding=1), nn.Conv1d(WIDTH, WIDTH, 3, padding=1, groups=4)
        self.group_norm, self.table = nn.GroupNorm(4, WIDTH), nn.Parameter(torch.randn(6, WIDTH))
        self.einsum = nn.Parameter(0.2 * torch.randn(4, 4, 4))

    def forward(self, x: Tensor) -> Tensor:
        kind, heads = self.kind, 4
        if kind == "attention":
            q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
            return x + self.b(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        if kind == "gated":
            return x + self.b(functional.glu(self.a(x)))
        if kind == "recurrent":
            return self.rnn(x)[0]
        if kind == "convolution":
            return x + functional.relu(self.conv(x.transpose(1, 2))).transpose(1, 2)
        if kind == "grouped":
            return self.grouped(x.transpose(1, 2)).transpose(1, 2)
        if kind == "group norm":
            return self.group_norm(x.transpose(1, 2)).transpose(1, 2)
        if kind == "concatenated":
            return self.c(torch.cat([x, functional.silu(self.b(x))], -1))
        if kind == "shuffled":
            return x.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(2)
        if kind == "einsum":
            return torch.einsum("nlhd,hde->nlhe", self.b(x).unflatten(-1, (4, 4)), self.einsum).flatten(2)
        return self._pointwise(x)

    def _pointwise(self, x: Tensor) -> Tensor:
        if self.kind == "norm":
            return self.norm(x)
        if self.kind == "rms":
            return self.rms(x)
        if self.kind == "table":
            return x + self.table
        if self.kind == "scaled by a mean":
            return x * torch.sigmoid(x.mean(-1, keepdim=True))
        if self.kind == "stacked":
            return torch.stack([x, self.b(x)], 1).amax(1)
        return self.norm(x + self.c(functional.gelu(self.a(x))))


class Network(nn.Module):
    """Embeds, takes its steps, classifies."""

    def __init__(self, kinds: list[str]) -> None:
        super().__init__()
        self.stem, self.steps, self.head = nn.Linear(5, WIDTH), nn.Sequential(*map(Step, kinds)), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.steps(self.stem(x)).mean(1))
        return result


def cut_exactly(kinds: list[str], attention: str, share: float, mode: str | None, seed: int) -> None:
    torch.manual_seed(seed)
    model, inputs = awake(Network(kinds), seed), (torch.randn(1, 6, 5),)
    try:
        analysis = analyze(model, inputs, attention=attention)
    except NothingToPruneError:
        return
    assert not analysis.unsupported
    random = np.random.default_rng(seed)
    saliency = {group.name: random.random(group.rows.shape) for group in analysis.groups}
    kept = {group.name: max(1, int(group.size * share)) for group in analysis.groups}
    plan = plan_from_saliency(analysis, saliency, kept)
    assert apply(model, analysis, plan, mode).error < 1e-4
    if analysis.blocks and seed % 2:
        block = analysis.blocks[seed % len(analysis.blocks)]
        rows = {group.name: group.rows for group in analysis.groups}
        gone = {name: tuple(() for _ in rows[name]) for name in block.groups}
        assert apply(model, analysis, Plan(plan.fingerprint, {**plan.kept, **gone})).error < 1e-4


NETWORKS = (
    st.lists(st.sampled_from(OPERATIONS), min_size=1, max_size=4),
    st.sampled_from(["heads", "dimensions"]),
    st.sampled_from([0.3, 0.5, 0.8]),
    st.sampled_from([None, "graph"]),
    st.integers(0, 1000),
)
random_networks = partial(settings, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@random_networks(max_examples=4)
@example(list(OPERATIONS[:4]), "heads", 0.5, None, 1)
@example(list(OPERATIONS[4:8]), "dimensions", 0.3, "graph", 2)
@example(list(OPERATIONS[8:12]), "heads", 0.8, None, 3)
@example([*OPERATIONS[12:], "attention"], "dimensions", 0.5, "graph", 5)
@given(*NETWORKS)
def test_every_random_network_is_cut_exactly(kinds: list[str], attention: str, share: float, mode: str | None, seed: int) -> None:
    cut_exactly(kinds, attention, share, mode, seed)


@pytest.mark.soak
@random_networks(max_examples=300)
@given(*NETWORKS)
def test_three_hundred_random_networks_are_cut_exactly(kinds: list[str], attention: str, share: float, mode: str | None, seed: int) -> None:
    cut_exactly(kinds, attention, share, mode, seed)
