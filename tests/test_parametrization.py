"""Computed weights (norms, masks, parametrizations) are folded: the network is cut like one with plain weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils.spectral_norm import spectral_norm as old_spectral_norm
from torch.nn.utils.weight_norm import weight_norm as old_weight_norm

from edgeprune.graph import analyze
from edgeprune.parametrization import computed_weights, folded
from edgeprune.surgery import apply, load, outputs_of, plan_from_saliency, restore, save
from edgeprune.task import Task


class Standardised(nn.Module):
    """A parametrization of the user's own."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight - weight.mean((1, 2), keepdim=True)


class Sequence(nn.Module):
    """1-D convolutions of every kind around one that is decorated: (N, 8, 12) to (N, 3)."""

    def __init__(self, decorate: Callable[[nn.Module], object], middle: nn.Module) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Conv1d(8, 16, 1), middle, nn.Conv1d(16, 24, 1)
        self.head = nn.Linear(24, 3)
        decorate(self.middle)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        if isinstance(self.middle, nn.LSTM):
            x = self.middle(x.transpose(1, 2))[0].transpose(1, 2)
        else:
            x = self.middle(x.transpose(1, 2)).transpose(1, 2) if isinstance(self.middle, nn.Linear) else self.middle(x)
        answer: Tensor = self.head(torch.relu(self.last(torch.tanh(x))).mean(-1))
        return answer


def random_mask(module: nn.Module) -> None:
    prune.custom_from_mask(module, "weight", torch.rand(module.weight.shape) > 0.3)  # type: ignore[arg-type, no-untyped-call]


def twice(module: nn.Module) -> None:
    prune.ln_structured(module, "weight", 0.25, 2, 0)  # type: ignore[no-untyped-call]
    prune.l1_unstructured(module, "weight", 0.5)  # type: ignore[no-untyped-call]


CONV, GROUPED, DEPTHWISE = (lambda groups=groups: nn.Conv1d(16, 16, 3, padding=1, groups=groups) for groups in (1, 4, 16))
KINDS: dict[str, tuple[Callable[[nn.Module], object], Callable[[], nn.Module]]] = {
    **{f"weight norm of {dim}": (lambda m, dim=dim: parametrizations.weight_norm(m, dim=dim), CONV) for dim in (0, 1, 2, None)},  # type: ignore[misc]
    **{f"old weight norm of {dim}": (lambda m, dim=dim: old_weight_norm(m, dim=dim), CONV) for dim in (0, 1, 2, None)},  # type: ignore[misc]
    "positions": (lambda m: parametrizations.weight_norm(m, dim=2), GROUPED),
    "depthwise": (parametrizations.weight_norm, DEPTHWISE),
    "transposed": (parametrizations.weight_norm, lambda: nn.ConvTranspose1d(16, 16, 3, padding=1)),
    "transposed, grouped, by output": (lambda m: old_weight_norm(m, dim=1), lambda: nn.ConvTranspose1d(16, 16, 3, padding=1, groups=4)),
    "linear": (parametrizations.weight_norm, lambda: nn.Linear(16, 16)),
    "recurrent": (lambda m: parametrizations.weight_norm(m, "weight_hh_l0"), lambda: nn.LSTM(16, 16, batch_first=True)),
    "recurrent, old": (lambda m: old_weight_norm(m, "weight_ih_l0"), lambda: nn.LSTM(16, 16, batch_first=True)),
    "spectral norm": (parametrizations.spectral_norm, CONV),
    "old spectral norm": (old_spectral_norm, CONV),
    "orthogonal": (parametrizations.orthogonal, lambda: nn.Linear(16, 16)),
    "the user's own": (lambda m: parametrize.register_parametrization(m, "weight", Standardised()), CONV),
    "mask": (random_mask, CONV),
    "masks": (twice, GROUPED),
    "global mask": (lambda m: prune.global_unstructured([(m, "weight"), (m, "bias")], prune.L1Unstructured, amount=0.4), CONV),  # type: ignore[no-untyped-call]
}
INPUTS = (torch.randn(1, 8, 12, generator=torch.Generator().manual_seed(0)),)


def built(name: str) -> nn.Module:
    decorate, middle = KINDS[name]
    torch.manual_seed(0)
    model = Sequence(decorate, middle())
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.3)
    model(torch.randn(2, 8, 12))  # hooks leave a computed weight behind, which cannot be copied
    return model.eval()


@pytest.mark.parametrize("name", KINDS)
def test_a_computed_weight_is_cut_like_a_plain_one(name: str) -> None:
    model = built(name)
    before = outputs_of(model, INPUTS)[0]
    analysis = analyze(model, INPUTS)
    random = np.random.default_rng(0)
    saliency = {group.name: random.random(group.rows.shape) for group in analysis.groups}
    plan = plan_from_saliency(analysis, saliency, {group.name: max(1, group.size // 2) for group in analysis.groups})
    pruned = apply(model, analysis, plan)
    assert pruned.mode == "modules"
    assert pruned.error < 1e-5
    assert {producer.partition(".")[0] for group in analysis.groups for producer in group.producers} >= {"first", "last"}
    assert pruned.model.middle.state_dict().keys() == KINDS[name][1]().state_dict().keys()
    again = outputs_of(restore(model, analysis, pruned), INPUTS)[0]
    assert torch.allclose(again, outputs_of(pruned.model, INPUTS)[0], atol=1e-5)
    assert torch.equal(outputs_of(model, INPUTS)[0], before)  # the user's model computes its weights as ever
    assert list(computed_weights(model))


def test_a_plain_model_is_itself() -> None:
    model = nn.Sequential(nn.Linear(3, 3))
    assert folded(model) is model


def test_a_frozen_weight_stays_frozen_and_a_mask_is_named() -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 4))
    model.requires_grad_(False)
    prune.l1_unstructured(model[1], "weight", 0.5)  # type: ignore[no-untyped-call]
    with pytest.warns(UserWarning, match=r"0\.weight \(WeightNorm\), 1\.weight \(torch\.nn\.utils\.prune\)"):
        plain = folded(model)
    assert not any(parameter.requires_grad for parameter in plain.parameters())
    assert plain[1].weight.eq(0).sum() == 8


def test_the_task_holds_plain_weights_and_a_checkpoint_loads_into_the_users_model(tmp_path) -> None:  # type: ignore[no-untyped-def]
    model = built("positions")
    task = Task(model, INPUTS)
    assert not list(computed_weights(task.model))
    analysis = analyze(task.model, INPUTS)
    widths = {group.name: max(1, group.size // 2) for group in analysis.groups}
    plan = plan_from_saliency(analysis, {group.name: np.ones(group.rows.shape) for group in analysis.groups}, widths)
    pruned = apply(task.model, analysis, plan)
    path = save(tmp_path / "model.safetensors", pruned, analysis, INPUTS)
    assert torch.equal(outputs_of(load(built("positions"), path), INPUTS)[0], outputs_of(pruned.model, INPUTS)[0])


class Computed(nn.Module):
    """A layer whose weight the code computes from a stored one, between two others: (N, 8, 12) to (N, 3)."""

    def __init__(self, compute: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.compute, self.first, self.last, self.head = compute, nn.Conv1d(8, 16, 1), nn.Conv1d(24, 16, 1), nn.Linear(16, 3)
        self.weight, self.gain = nn.Parameter(torch.randn(24, 16, 3)), nn.Parameter(torch.rand(24, 1, 1))
        self.column = nn.Parameter(torch.rand(16, 1))
        self.register_buffer("zero", torch.zeros(24, dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(nn.functional.conv1d(torch.relu(self.first(x)), self.compute(self, self.weight), padding=1))
        answer: Tensor = self.head(torch.relu(self.last(x)).mean(-1))
        return answer


COMPUTED: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "standardised": lambda net, w: (w - w.mean((1, 2), keepdim=True)) / (w.std((1, 2), keepdim=True) + 1e-5),
    "standardised with a gain": lambda net, w: (
        (w - w.mean((1, 2), keepdim=True)) * torch.rsqrt(w.var((1, 2), keepdim=True) + 1e-5) * net.gain
    ),
    "weight norm": lambda net, w: net.gain * w / w.norm(dim=(1, 2), keepdim=True),
    "scaled by column": lambda net, w: net.column * w,
    "one scale": lambda net, w: torch.clamp(torch.round(w / w.abs().mean()), -1, 1) * w.abs().mean(),
    "squashed": lambda net, w: torch.tanh(w) * 2,
    "fake quantization": lambda net, w: torch.fake_quantize_per_tensor_affine(w, 0.05, 0, -128, 127),
    "fake quantization by channel": lambda net, w: torch.fake_quantize_per_channel_affine(w, net.gain.flatten(), net.zero, 0, -128, 127),
}


@pytest.mark.parametrize("mode", [None, "graph"])
@pytest.mark.parametrize("name", COMPUTED)
def test_a_weight_that_the_code_computes_row_by_row_is_followed(name: str, mode: Any) -> None:
    model = Computed(COMPUTED[name]).eval()
    analysis = analyze(model, INPUTS)
    assert {group.name: group.size for group in analysis.groups} == {"first": 16, "weight": 24, "last": 16}
    random = np.random.default_rng(0)
    saliency = {group.name: random.random(group.rows.shape) for group in analysis.groups}
    plan = plan_from_saliency(analysis, saliency, {group.name: group.size // 2 for group in analysis.groups})
    pruned = apply(model, analysis, plan, mode)
    assert pruned.error < 1e-5
    assert pruned.model.get_parameter("weight").shape == (12, 8, 3)


def test_a_weight_that_cannot_be_followed_is_named_and_its_elements_are_not_channels() -> None:
    analysis = analyze(Computed(lambda net, w: torch.linalg.qr(w.permute(2, 0, 1))[0].permute(1, 2, 0)).eval(), INPUTS)
    assert [group.name for group in analysis.groups] == ["last"]
    reasons = {reason for reason in analysis.fixed.values() if "output" not in reason}
    assert reasons == {
        "first: conv1d in the model's own forward: its weight is computed on every call, in a way that cannot be followed; "
        "store it to prune the layer"
    }
    assert len(analysis.fixed) <= 16 + 3
