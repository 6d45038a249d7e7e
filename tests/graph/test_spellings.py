"""Everyday spellings cost no layer, what a shuffle or a view moves goes together, and what stays has a reason that names its layer."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeprune.errors import NothingToPruneError, VerificationError
from edgeprune.graph import Analysis, analyze
from edgeprune.surgery import Pruned, apply, plan_from_saliency

IMAGE = (torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)),)


def half(model: nn.Module, inputs: tuple[Any, ...], mode: str | None = None) -> tuple[Analysis, Pruned]:
    analysis, random = analyze(model, inputs), np.random.default_rng(0)
    saliency = {group.name: random.random(group.rows.shape) for group in analysis.groups}
    widths = {group.name: max(1, group.size // 2) for group in analysis.groups}
    return analysis, apply(model, analysis, plan_from_saliency(analysis, saliency, widths), mode)  # type: ignore[arg-type]


class Two(nn.Module):
    """Two convolutions, an operation on what they make, a third: (N, 3, 8, 8) to (N, 4, ...)."""

    def __init__(self, call: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.call = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(3, 16, 3, padding=1), call
        with torch.no_grad():
            self.last = nn.Conv2d(call(self.a(IMAGE[0]), self.b(IMAGE[0])).shape[1], 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.last(self.call(self.a(x), self.b(x)))
        return scores


APART: dict[str, Callable[[Tensor, Tensor], Tensor]] = {  # 16 channels of either, by themselves
    "concat": lambda a, b: torch.concat([a, b], 1),
    "concatenate": lambda a, b: torch.concatenate([a, b], 1),
    "hstack": lambda a, b: torch.hstack([a, b]),
    "dstack": lambda a, b: torch.dstack([a.movedim(1, 2), b.movedim(1, 2)]).movedim(2, 1),
    "column_stack": lambda a, b: torch.column_stack([a, b]),
}
TOGETHER: dict[str, Callable[[Tensor, Tensor], Tensor]] = {  # the channels of both are one
    "max": lambda a, b: torch.max(a, b),
    "min": lambda a, b: torch.min(a, b),
    "fmax": torch.fmax,
    "clip": lambda a, b: a.clip(0, 1) + b.clip_(-1, 1),
    "addcmul": lambda a, b: torch.addcmul(a, a, b, value=0.5),
    "lerp": lambda a, b: torch.lerp(a, b, 0.3),
    "rsub": lambda a, b: torch.rsub(a, b),
    "logaddexp": torch.logaddexp,
    "heaviside": lambda a, b: torch.heaviside(a, b) + b,
    "square_": lambda a, b: a.square_() + b,
    "celu_": lambda a, b: functional.celu_(a) + b,
    "softsign": lambda a, b: functional.softsign(a) - functional.logsigmoid(b),
    "trunc": lambda a, b: torch.trunc(3 * a) + torch.fix(b),
    "moveaxis": lambda a, b: torch.moveaxis(torch.swapaxes(a, 1, 3), 3, 1) * b,
    "unflatten": lambda a, b: a.flatten(2).unflatten(2, (8, 8)) + b,
    "vstack": lambda a, b: torch.vstack([a, b])[: a.shape[0]] + b,
    "tril": lambda a, b: torch.tril(a) + torch.triu(b),
    "normalize": lambda a, b: functional.normalize(a, dim=1) + b,
    "unfold": lambda a, b: functional.fold(functional.unfold(a, 3, padding=1), (8, 8), 3, padding=1) + b,
    "complex": lambda a, b: torch.view_as_real(torch.view_as_complex(torch.stack([a, b], -1)) * 2).sum(-1),
}


@pytest.mark.parametrize("name", [*APART, *TOGETHER])
def test_a_spelling_costs_no_layer(name: str) -> None:
    analysis, pruned = half(Two({**APART, **TOGETHER}[name]).eval(), IMAGE, "graph")
    assert not analysis.unsupported
    assert sum(group.channels for group in analysis.groups) == (32 if name in APART else 16)
    assert set(analysis.fixed.values()) == {"last: reaches the model's output"}
    assert pruned.error < 1e-4


class Moved(nn.Module):
    """Layers, and a function of them."""

    def __init__(self, call: Callable[[Any, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.call = call
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self, x)


def shuffled() -> nn.Module:
    layers = {"up": nn.Conv2d(3, 64, 3), "last": nn.Conv2d(16, 4, 1)}
    return Moved(lambda net, x: net.last(functional.pixel_shuffle(net.up(x).relu(), 2)), **layers)


def generator() -> nn.Module:
    layers = {"up": nn.Linear(8, 16 * 4 * 4), "deconv": nn.ConvTranspose2d(16, 8, 2, 2), "last": nn.Conv2d(8, 3, 1)}
    return Moved(lambda net, x: net.last(net.deconv(net.up(x).view(-1, 16, 4, 4).relu())), **layers)


def resized_table() -> nn.Module:
    class Patches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.last, self.positions = nn.Conv2d(3, 16, 2, 2), nn.Conv2d(16, 4, 1), nn.Parameter(torch.randn(1, 10, 16))

        def forward(self, x: Tensor) -> Tensor:
            table = self.positions[:, 1:].reshape(1, 3, 3, 16).permute(0, 3, 1, 2)
            table = functional.interpolate(table, size=(4, 4), mode="bilinear")
            scores: Tensor = self.last((self.up(x) + table).relu())
            return scores

    return Patches()


@pytest.mark.parametrize("mode", [None, "graph"])
@pytest.mark.parametrize(
    ("make", "inputs", "units", "each"),
    [(shuffled, IMAGE, 16, 4), (generator, (torch.rand(1, 8),), 16, 16), (resized_table, IMAGE, 16, 1)],
)
def test_channels_that_stand_for_places_go_together(
    make: Callable[[], nn.Module], inputs: tuple[Any, ...], units: int, each: int, mode: str | None
) -> None:
    torch.manual_seed(0)
    model = make().eval()
    analysis, pruned = half(model, inputs, mode)
    group = next(group for group in analysis.groups if "up.weight" in group.producers)
    assert group.size == units
    before, after = (net.get_parameter("up.weight").shape[0] for net in (model, pruned.model))
    assert (before, after) == (units * each, units * each // 2)
    assert pruned.error < 1e-4


class Heads(nn.Module):
    """Attention whose queries and keys, or half of each, are turned by a table kept as a buffer, out of one layer, head by head."""

    def __init__(self, turned: int, normed: bool = False) -> None:
        super().__init__()
        self.stem, self.qkv, self.out, self.head = nn.Linear(8, 32), nn.Linear(32, 96), nn.Linear(32, 32), nn.Linear(32, 3)
        self.norm, self.turned = nn.LayerNorm(8) if normed else nn.Identity(), turned
        self.register_buffer("table", torch.rand(9, turned))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        q, k, v = self.qkv(x).unflatten(-1, (4, 24)).transpose(1, 2).chunk(3, -1)
        q, k = (torch.cat([self._turn(part[..., : self.turned]), part[..., self.turned :]], -1) for part in (self.norm(q), self.norm(k)))
        x = x + self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        answer: Tensor = self.head(x.mean(1))
        return answer

    def _turn(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, -1)
        return x * self.table[: x.shape[2]] + torch.cat([-second, first], -1) * self.table[: x.shape[2]].cos()


@pytest.mark.parametrize("attention", ["heads", "dimensions"])
@pytest.mark.parametrize(("turned", "normed"), [(8, False), (4, False), (8, True)])
def test_heads_under_a_rotary_table_go_whole(turned: int, normed: bool, attention: Any) -> None:
    torch.manual_seed(0)
    model, inputs = Heads(turned, normed).eval(), (torch.randn(1, 5, 8),)
    analysis = analyze(model, inputs, attention=attention)
    if attention == "heads":
        group = next(group for group in analysis.groups if group.name == "qkv")
        assert group.rows.shape == (1, 4)
    widths = {group.name: max(1, group.size // 2) for group in analysis.groups}
    plan = plan_from_saliency(
        analysis, {group.name: np.random.default_rng(0).random(group.rows.shape) for group in analysis.groups}, widths
    )
    assert apply(model, analysis, plan).error < 1e-4


class Scan(nn.Module):
    """The outer product of a selective scan: channels by a small state."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs, self.dt, self.state, self.outputs = nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, 4), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inputs(x).relu()
        answer: Tensor = self.outputs((self.dt(x)[..., None] * self.state(x)[:, None, :] * x[..., None]).sum(-1))
        return answer


def test_an_outer_product_keeps_the_smaller_side_and_says_so() -> None:
    torch.manual_seed(0)
    analysis, pruned = half(Scan().eval(), (torch.randn(1, 8),))
    assert pruned.error < 1e-4
    assert {group.name: group.size for group in analysis.groups} == {"inputs": 32}
    kept = {reason for reason in analysis.fixed.values() if "output" not in reason.split(": ")[-1]}
    assert kept
    assert all(re.match(r"state: mul in .*stretched over other channels", reason) for reason in kept)


def test_reasons_name_the_layer_as_the_user_wrote_it() -> None:
    model = nn.Sequential(nn.Sequential(nn.ReLU(), nn.Linear(8, 8)), nn.Softmax(-1), nn.Linear(8, 2))
    with pytest.raises(NothingToPruneError, match=r"0\.1: softmax in 1 runs over channels") as raised:
        analyze(model, (torch.zeros(1, 8),))
    assert "2: reaches the model's output" in str(raised.value)


def test_a_model_that_draws_in_eval_mode_is_named() -> None:
    model = nn.Sequential(nn.Linear(4, 8), Moved(lambda net, x: x + torch.rand(1)), nn.Linear(8, 2)).eval()
    with pytest.warns(UserWarning, match="draws random numbers in eval mode: rand in 1"):
        analysis, pruned = half(model, (torch.zeros(1, 4),), "graph")
    assert analysis.random == ["rand in 1"]
    assert pruned.error < 1e-5
    model[1] = Moved(lambda net, x: x + torch.rand(8))  # a number for every channel: the smaller model draws others
    with pytest.raises(VerificationError, match="draws random numbers in eval mode: rand in 1"):
        half(model, (torch.zeros(1, 4),), "graph")
