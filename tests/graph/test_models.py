"""Attention, recurrent layers, normalisation over channels, detectors: analysed, cut, and compared with a masked reference."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from edgeprune.graph import Analysis, analyze
from edgeprune.importance.redundancy import redundancy
from edgeprune.surgery import Plan, apply, masked, outputs_of, plan_from_saliency
from edgeprune.task import Task
from edgeprune.testing.networks import awake
from edgeprune.tuning import recalibrate

TOKENS = torch.randint(0, 50, (1, 9), generator=torch.Generator().manual_seed(0))


def half(analysis: Analysis, seed: int = 0) -> Plan:
    random = np.random.default_rng(seed)
    saliency = {group.name: random.random(group.rows.shape) for group in analysis.groups}
    return plan_from_saliency(analysis, saliency, {group.name: max(1, group.size // 2) for group in analysis.groups})


class Attention(nn.Module):
    """Self-attention with packed projections, as Swin and timm write it: sizes are read from the input."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.stem = heads, nn.Linear(8, width)
        self.norm, self.qkv, self.proj = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.bias = nn.Parameter(torch.randn(25, heads))
        self.register_buffer("places", torch.arange(25).reshape(5, 5))
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 48), nn.GELU(), nn.Linear(48, width))
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        n, length, width = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(n, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        scores = q @ k.transpose(-2, -1) * (width // self.heads) ** -0.5 + self.bias[self.places].permute(2, 0, 1)
        x = x + self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(n, length, width))
        x = x + self.mlp(x)
        result: Tensor = self.head(x.mean(1))
        return result


class Grouped(nn.Module):
    """Grouped-query attention, RMSNorm and a gated feed-forward layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Linear(8, 32), nn.RMSNorm(32)
        self.q, self.k, self.v = nn.Linear(32, 32), nn.Linear(32, 16), nn.Linear(32, 16)
        self.out, self.gate, self.up, self.down = nn.Linear(32, 32), nn.Linear(32, 40), nn.Linear(32, 40), nn.Linear(40, 32)
        self.head = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(x)
        q, k, v = (layer(y).unflatten(-1, (-1, 8)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        x = x + self.out(functional.scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2).flatten(2))
        x = x + self.down(functional.silu(self.gate(x)) * self.up(x))
        result: Tensor = self.head(x.mean(1))
        return result


class Recurrent(nn.Module):
    """Embedding, recurrent layers, classifier on the last output and state."""

    def __init__(self, kind: type[nn.RNNBase], **options: bool | int) -> None:
        super().__init__()
        self.embedding, self.rnn = nn.Embedding(50, 24), kind(24, 32, batch_first=True, **options)  # type: ignore[arg-type]
        self.head = nn.Linear(int(options.get("proj_size", 32)) * (2 if options.get("bidirectional") else 1), 4)

    def forward(self, tokens: Tensor) -> Tensor:
        result: Tensor = self.head(self.rnn(self.embedding(tokens))[0][:, -1])
        return result


class Normalised(nn.Module):
    """GroupNorm, InstanceNorm, transposed, grouped and 1-D convolution, a gate by channel means."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.n1 = nn.Conv1d(4, 16, 3, padding=1), nn.GroupNorm(4, 16)
        self.b, self.n2 = nn.ConvTranspose1d(16, 12, 2, 2), nn.InstanceNorm1d(12, affine=True)
        self.c, self.d = nn.ConvTranspose1d(12, 12, 2, 2, groups=12), nn.ConvTranspose1d(12, 8, 2, 2, groups=2)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.silu(self.n1(self.a(x)))
        x = x * torch.sigmoid(x.mean(1, keepdim=True) + x.amax(1, keepdim=True))
        x = functional.glu(torch.cat([self.n2(self.b(x))] * 2, 1), 1)
        result: Tensor = self.head(self.d(self.c(x)).amax(-1))
        return result


class Cross(nn.Module):
    """nn.MultiheadAttention from one sequence to another."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(8, 32), nn.Linear(8, 32)
        self.attention, self.norm, self.head = nn.MultiheadAttention(32, 4, batch_first=True), nn.LayerNorm(32), nn.Linear(32, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x, y = self.left(x), self.right(y)
        result: Tensor = self.head(self.norm(x + self.attention(x, y, y)[0]).mean(1))
        return result


class Einsum(nn.Module):
    """Attention by einsum over weights of three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(8, 24)
        self.q, self.k, self.v = (nn.Parameter(0.2 * torch.randn(24, 4, 6)) for _ in range(3))
        self.out, self.head = nn.Parameter(0.2 * torch.randn(4, 6, 24)), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        q, k, v = (torch.einsum("blc,chd->blhd", x, weight) for weight in (self.q, self.k, self.v))
        scores = torch.einsum("bihd,bjhd->bhij", q, k).softmax(-1)
        result: Tensor = self.head(torch.einsum("blhd,hdc->blc", torch.einsum("bhij,bjhd->bihd", scores, v), self.out).mean(1))
        return result


class Tied(nn.Module):
    """The embedding's weight is the classifier's too."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.layer, self.head = nn.Embedding(50, 24), nn.Linear(24, 24), nn.Linear(24, 50, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        result: Tensor = self.head(x + self.layer(x).relu())
        return result


def transformer(norm_first: bool) -> nn.Module:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=norm_first)
    return nn.Sequential(nn.Linear(8, 32), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(32, 3))


class Calls(nn.Module):
    """Layers and a function of them."""

    def __init__(self, call: Callable[..., Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.call = call
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, *inputs: object) -> Tensor:
        return self.call(self, *inputs)


def cosine(net: Any, x: Tensor) -> Tensor:
    q, k, v = net.b(net.a(x)).unflatten(-1, (3, 4, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    scores = (functional.normalize(q, dim=-1) @ functional.normalize(k, dim=-1).transpose(-2, -1)).softmax(-1)
    return net.h((scores @ v).transpose(1, 2).flatten(2).mean(1))


def first_state(net: Any, x: Tensor) -> Tensor:
    x = net.a(x)
    state = torch.zeros(x.shape[0], 16, *x.shape[2:])
    for _ in range(2):
        state = torch.tanh(net.b(torch.cat([x, state], 1)))
    return net.h(state.mean((2, 3)))


IMAGE, SEQUENCE = (torch.randn(1, 3, 8, 8),), (torch.randn(1, 5, 8),)
CALLS: dict[str, tuple[Callable[[], nn.Module], tuple[Any, ...], float]] = {
    "channel shuffle": (
        lambda: Calls(
            lambda net, x: net.h(net.b(functional.channel_shuffle(net.a(x), 4)).relu().mean((2, 3))),
            a=nn.Conv2d(3, 16, 3),
            b=nn.Conv2d(16, 16, 3),
            h=nn.Linear(16, 4),
        ),
        IMAGE,
        0.7,
    ),
    "roll": (
        lambda: Calls(
            lambda net, x: net.h(net.b(net.a(x).roll((-3, 2), (1, 2))).mean((2, 3))),
            a=nn.Conv2d(3, 16, 3),
            b=nn.Conv2d(16, 16, 3),
            h=nn.Linear(16, 4),
        ),
        IMAGE,
        0.4,
    ),
    "every second channel": (
        lambda: Calls(lambda net, x: net.h(net.a(x)[:, ::2].relu()), a=nn.Linear(8, 32), h=nn.Linear(16, 4)),
        (torch.randn(1, 8),),
        0.7,
    ),
    "a number beside the tensors": (
        lambda: Calls(lambda net, x, n: net.h(net.a(x).relu().mean(1) * n), a=nn.Linear(8, 32), h=nn.Linear(32, 4)),
        (*SEQUENCE, 3),
        0.6,
    ),
    "a weight that is an operand": (
        lambda: Calls(
            lambda net, x: net.h(net.b(net.a(x)).mean(1)) * net.b.weight.norm(),
            a=nn.Linear(8, 16),
            b=nn.Linear(16, 20),
            h=nn.Linear(20, 4),
        ),
        SEQUENCE,
        0.5,
    ),
    "cosine attention": (lambda: Calls(cosine, a=nn.Linear(8, 32), b=nn.Linear(32, 96), h=nn.Linear(32, 4)), SEQUENCE, 0.4),
    "padding mask": (
        lambda: Calls(
            lambda net, x, mask: net.h(net.m(net.a(x), net.a(x), net.a(x), key_padding_mask=mask)[0].mean(1)),
            a=nn.Linear(8, 32),
            m=nn.MultiheadAttention(32, 4, batch_first=True),
            h=nn.Linear(32, 4),
        ),
        (*SEQUENCE, torch.tensor([[False, False, False, True, True]])),
        0.4,
    ),
    "weight norm": (
        lambda: Calls(
            lambda net, x: net.h(net.b(net.a(x).relu()).relu().mean((2, 3))),
            a=weight_norm(nn.Conv2d(3, 16, 3)),
            b=weight_norm(nn.Conv2d(16, 16, 3)),
            h=nn.Linear(16, 4),
        ),
        IMAGE,
        0.5,
    ),
    "zeros as a first state": (
        lambda: Calls(first_state, a=nn.Conv2d(3, 16, 3), b=nn.Conv2d(32, 16, 3, padding=1), h=nn.Linear(16, 4)),
        IMAGE,
        0.4,
    ),
    "no batch": (
        lambda: Calls(
            lambda net, x: net.h(functional.adaptive_avg_pool2d(functional.max_pool2d(net.b(net.a(x)), 2), 1).flatten()),
            a=nn.Conv2d(3, 16, 3),
            b=nn.Conv2d(16, 16, 3),
            h=nn.Linear(16, 4),
        ),
        (torch.randn(3, 9, 9),),
        0.4,
    ),
    "a decision": (lambda: Calls(lambda net, x: net.h(net.a(x).relu()) > 0, a=nn.Linear(8, 32), h=nn.Linear(32, 4)), SEQUENCE, 0.6),
}


@cache
def analyzed(name: str, attention: str = "heads") -> tuple[nn.Module, Analysis]:
    """A model of either table and its analysis, which no cut changes."""
    make, inputs = CALLS[name][:2] if name in CALLS else MODELS[name]
    torch.manual_seed(0)
    model = awake(make())
    return model, analyze(model, inputs, attention=attention)


@pytest.mark.parametrize("mode", [None, "graph"])
@pytest.mark.parametrize("name", CALLS)
def test_what_users_write_is_cut_exactly(name: str, mode: str | None) -> None:
    model, analysis = analyzed(name)
    pruned = apply(model, analysis, half(analysis), mode)
    assert pruned.error < 1e-4
    before, after = (sum(parameter.numel() for parameter in one.parameters()) for one in (model, pruned.model))
    assert after < CALLS[name][2] * before


def test_half_precision_is_checked_within_its_own_steps() -> None:
    model = awake(Attention()).bfloat16()
    inputs = (SEQUENCE[0].bfloat16(),)
    analysis = analyze(model, inputs)
    assert apply(model, analysis, half(analysis)).error < 2 * torch.finfo(torch.bfloat16).eps


MODELS = {
    "attention": (Attention, SEQUENCE),
    "grouped queries": (Grouped, SEQUENCE),
    "encoder": (lambda: transformer(True), SEQUENCE),
    "post-norm encoder": (lambda: transformer(False), SEQUENCE),
    "cross attention": (Cross, (torch.randn(1, 5, 8), torch.randn(1, 7, 8))),
    "einsum": (Einsum, SEQUENCE),
    "lstm": (lambda: Recurrent(nn.LSTM, num_layers=2, bidirectional=True), (TOKENS,)),
    "projected lstm": (lambda: Recurrent(nn.LSTM, num_layers=2, proj_size=12), (TOKENS,)),
    "gru": (lambda: Recurrent(nn.GRU), (TOKENS,)),
    "rnn": (lambda: Recurrent(nn.RNN, num_layers=2), (TOKENS,)),
    "normalised": (Normalised, (torch.randn(1, 4, 10),)),
    "tied": (Tied, (TOKENS,)),
}


HEADS = ("attention", "grouped queries", "encoder", "post-norm encoder", "cross attention", "einsum")


@pytest.mark.parametrize("mode", [None, "graph"])
@pytest.mark.parametrize(("name", "attention"), [*((name, "heads") for name in MODELS), *((name, "dimensions") for name in HEADS)])
def test_half_of_every_group_is_cut_exactly(name: str, mode: str | None, attention: str) -> None:
    model, analysis = analyzed(name, attention)
    pruned = apply(model, analysis, half(analysis), mode)
    assert not analysis.unsupported
    assert pruned.error < 1e-4
    before, after = (sum(parameter.numel() for parameter in one.parameters()) for one in (model, pruned.model))
    assert after < 0.6 * before


def test_heads_go_whole_or_lose_dimensions() -> None:
    model = awake(Attention())
    heads = next(group for group in analyze(model, SEQUENCE).groups if "qkv.weight" in group.producers)
    assert heads.rows.shape == (1, 4)
    assert {"proj.weight"} == set(heads.readers)
    assert "bias" in heads.producers
    dimensions = analyze(model, SEQUENCE, attention="dimensions")
    assert sorted(group.rows.shape for group in dimensions.groups if "qkv.weight" in group.producers) == [(8, 8)]


def test_queries_that_share_keys_go_together() -> None:
    groups = {group.name: group for group in analyze(awake(Grouped()), SEQUENCE).groups}
    assert groups["q"].rows.shape == (1, 2)
    assert {"q.weight", "k.weight", "v.weight"} <= set(groups["q"].producers)


def test_all_gates_of_a_recurrent_layer_share_its_channels() -> None:
    analysis = analyze(Recurrent(nn.LSTM, num_layers=2).eval(), (TOKENS,))
    hidden = next(group for group in analysis.groups if "rnn.weight_hh_l0" in group.producers)
    assert hidden.rows.shape == (2, 32)
    pruned = apply(Recurrent(nn.LSTM, num_layers=2).eval(), analysis, half(analysis)).model
    assert pruned.rnn.hidden_size == 16
    assert pruned.rnn.weight_hh_l1.shape == (64, 16)


def test_a_transformer_layer_can_be_dropped() -> None:
    model = awake(Attention())
    analysis = analyze(model, SEQUENCE)
    names = {block.name for block in analysis.blocks}
    assert len(names) == 2
    block = next(block for block in analysis.blocks if "qkv" in "".join(block.parameters))
    rows = {group.name: group.rows for group in analysis.groups}
    pruned = apply(model, analysis, Plan(analysis.fingerprint, {name: tuple(() for _ in rows[name]) for name in block.groups}))
    assert pruned.mode == "graph"
    assert pruned.error < 1e-5
    assert not any("qkv" in name for name, _ in pruned.model.named_parameters())


def test_redundancy_is_one_for_a_block_that_adds_nothing() -> None:
    model = awake(Attention())
    with torch.no_grad():
        model.proj.weight.zero_()
        model.proj.bias.zero_()
    analysis = analyze(model, SEQUENCE)
    scores = redundancy(Task(model, SEQUENCE), analysis)
    idle = next(block.name for block in analysis.blocks if "proj.weight" in block.parameters)
    assert scores[idle] == pytest.approx(1.0)
    assert all(0.0 < score < 0.9999 for name, score in scores.items() if name != idle)


def test_the_reference_measures_batch_norm_statistics_again() -> None:
    torch.manual_seed(0)
    model = awake(nn.Sequential(nn.Conv1d(5, 16, 3, padding=1), nn.BatchNorm1d(16), nn.GroupNorm(4, 16), nn.Conv1d(16, 3, 1)))
    inputs = (torch.randn(4, 5, 9),)
    analysis = analyze(model, inputs)
    plan = half(analysis)
    batches = [(3.0 + torch.randn(8, 5, 9), None) for _ in range(2)]
    reference, pruned = masked(model, analysis, plan), apply(model, analysis, plan).model
    for one in (reference, pruned):
        recalibrate(one, batches)
    assert torch.allclose(outputs_of(reference, inputs)[0], outputs_of(pruned, inputs)[0], atol=1e-4)
    assert not torch.allclose(outputs_of(masked(model, analysis, plan), inputs)[0], outputs_of(pruned, inputs)[0], atol=1e-2)
