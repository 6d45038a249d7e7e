"""Weights that make up for channels that go."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeprune.errors import InputError
from edgeprune.graph import Analysis, analyze
from edgeprune.surgery import Plan, apply, outputs_of, plan_from_saliency, reconstruct
from edgeprune.testing.networks import Gated, OptionA, Shuffle, awake
from edgeprune.tuning import recalibrate

IMAGES = (torch.zeros(1, 3, 8, 8),)


class Twins(nn.Module):
    """Every hidden channel has a scaled twin: half of them can be made up for exactly."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.first = nn.Linear(6, 8) if kind == "linear" else nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Linear(8, 5) if kind == "linear" else nn.Conv2d(8, 5, 3, stride=2, padding=1, dilation=1)
        with torch.no_grad():
            self.first.weight[4:] = 2 * self.first.weight[:4]
            self.first.bias[4:] = 2 * self.first.bias[:4]

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.second(functional.relu(self.first(x)))
        return result


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_what_the_rest_predicts_is_made_up_for(kind: str) -> None:
    torch.manual_seed(0)
    model, shape = Twins(kind).eval(), (6,) if kind == "linear" else (3, 8, 8)
    analysis = analyze(model, (torch.zeros(1, *shape),))
    plan = Plan(analysis.fingerprint, {analysis.groups[0].name: ((0, 1, 6, 7),)})  # one of each pair stays
    inputs = torch.randn(256, *shape)
    fixed = reconstruct(model, analysis, plan, [(inputs[:128], None), (inputs[128:], None)])
    wanted = model(inputs)
    plain, better = (apply(source, analysis, plan).model(inputs) for source in (model, fixed))
    assert (better - wanted).norm() < 0.1 * (plain - wanted).norm()


@pytest.mark.parametrize("network", [OptionA, Shuffle, Gated])
def test_reconstruction_comes_nearer_and_changes_nothing_given(network: type[nn.Module]) -> None:
    model = awake(network())
    analysis = analyze(model, IMAGES)
    plan = _half(analysis)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    inputs = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    fixed = reconstruct(model, analysis, plan, [(inputs, None)])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    wanted, batch = outputs_of(model, (inputs,))[0], (inputs, None)
    errors = []
    for source in (model, fixed):
        smaller = apply(source, analysis, plan).model

        recalibrate(smaller, [batch])
        errors.append(float((outputs_of(smaller, (inputs,))[0] - wanted).norm()))
    assert errors[1] < 0.8 * errors[0]


def test_applying_other_weights_leaves_the_analysed_model_as_it_was() -> None:
    """The captured graph shares the analysed model's weights: cutting another set of weights out of it once wrote over them."""
    model = awake(OptionA())
    analysis = analyze(model, IMAGES)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    other = awake(OptionA())
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(2)
    assert apply(other, analysis, _half(analysis)).mode == "graph"
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_batches_that_the_graph_does_not_take_are_left_out() -> None:
    """Texts padded to other lengths, flags, single samples, nothing at all: once errors of torch."""
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4)).eval()
    analysis = analyze(model, (torch.zeros(1, 6),))
    plan, batch = _half(analysis), torch.randn(32, 6)
    wanted = reconstruct(model, analysis, plan, [(batch, None)]).state_dict()
    others = [(torch.randn(8, 7), None), ((batch, 3), None), (batch[:0], None), (batch.double(), None)]
    found = reconstruct(model, analysis, plan, [*others, (batch, None)]).state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in found.items())
    kept = reconstruct(model, analysis, plan, others).state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    reconstruct(model, analysis, plan, [(batch[:1], None)])  # a batch norm cannot measure one sample


def test_no_more_samples_than_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    analysis = analyze(model, (torch.zeros(1, 6),))
    plan, batch = _half(analysis), torch.randn(64, 6)
    wanted = reconstruct(model, analysis, plan, [(batch[:20], None)]).state_dict()
    monkeypatch.setattr(import_module("edgeprune.surgery.reconstruct"), "MOST_ELEMENTS", 20 * 16)  # sixteen for each sample
    found = reconstruct(model, analysis, plan, [(batch[:40], None), (batch[40:], None)]).state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in found.items())


def test_what_is_not_a_number_makes_no_weights() -> None:
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    analysis = analyze(model, (torch.zeros(1, 6),))
    fixed = reconstruct(model, analysis, _half(analysis), [(torch.full((8, 6), float("nan")), None)])
    assert all(bool(value.isfinite().all()) for value in fixed.state_dict().values())


def test_a_fixed_filter_stays_fixed() -> None:
    class Blurred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 16, 3), nn.Linear(16, 4)
            self.register_buffer("filter", torch.ones(16, 1, 3, 3) / 9)

        def forward(self, x: Tensor) -> Tensor:
            blurred = functional.conv2d(functional.relu(self.first(x)), self.get_buffer("filter"), groups=16)
            scores: Tensor = self.last(blurred.mean((2, 3)))
            return scores

    model = Blurred().eval()
    analysis = analyze(model, IMAGES)
    fixed = reconstruct(model, analysis, _half(analysis), [(torch.randn(32, 3, 8, 8), None)])
    assert torch.equal(fixed.get_buffer("filter"), model.get_buffer("filter"))
    assert not torch.equal(fixed.get_parameter("last.weight"), model.get_parameter("last.weight"))


def test_no_calibration_data_is_refused() -> None:
    model = awake(OptionA())
    analysis = analyze(model, IMAGES)
    with pytest.raises(InputError, match="at least one calibration batch"):
        reconstruct(model, analysis, _half(analysis), [])


def _half(analysis: Analysis) -> Plan:
    saliency = {group.name: torch.rand(group.rows.shape, generator=torch.Generator().manual_seed(2)).numpy() for group in analysis.groups}
    return plan_from_saliency(analysis, saliency, {group.name: max(1, group.size // 2) for group in analysis.groups})
