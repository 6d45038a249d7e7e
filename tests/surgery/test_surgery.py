"""Plans cut out of models: exact, trainable, saved and loaded."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgeprune.errors import CheckpointError, PlanError, VerificationError
from edgeprune.graph import Analysis, analyze
from edgeprune.surgery import Plan, apply, load, masked, outputs_of, plan_from_saliency, restore, save
from edgeprune.surgery import apply as apply_plan
from edgeprune.testing.networks import Gated, OptionA, Shuffle, awake

IMAGE = (torch.zeros(1, 3, 8, 8),)


def random_plan(analysis: Analysis, seed: int, share: float = 0.5) -> Plan:
    random = np.random.default_rng(seed)
    saliency = {group.name: random.random(group.rows.shape) for group in analysis.groups}
    return plan_from_saliency(analysis, saliency, {group.name: max(1, int(group.size * share)) for group in analysis.groups})


@pytest.mark.parametrize(("network", "mode"), [(OptionA, "graph"), (Shuffle, "modules"), (Gated, "modules")])
def test_compacted_equals_masked(network: type[nn.Module], mode: str) -> None:
    model = awake(network())
    analysis = analyze(model, IMAGE)
    plan = random_plan(analysis, 1)
    pruned = apply(model, analysis, plan)
    inputs = (torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(5)),)
    got, wanted, dense = (outputs_of(one, inputs)[0] for one in (pruned.model, masked(model, analysis, plan), model))
    assert pruned.mode == mode
    assert torch.allclose(got, wanted, atol=1e-5)
    assert not torch.allclose(wanted, dense, atol=1e-3)
    assert sum(p.numel() for p in pruned.model.parameters()) < sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("network", [OptionA, Shuffle, Gated])
def test_the_graph_form_is_exact_and_trains(network: type[nn.Module]) -> None:
    model = awake(network())
    analysis = analyze(model, IMAGE)
    pruned = apply(model, analysis, random_plan(analysis, 2), "graph")
    assert pruned.error < 1e-5
    norms = [module for module in pruned.model.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms]
    pruned.model.train()
    pruned.model(torch.randn(4, 3, 8, 8)).sum().backward()
    assert all(parameter.grad is not None for parameter in pruned.model.parameters())
    assert norms
    assert all(not torch.equal(norm.running_mean, old) for norm, old in zip(norms, before, strict=True))


def test_the_check_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    model = awake(Gated())
    analysis = analyze(model, IMAGE)

    def wrong(model: nn.Module, masks: dict[str, Tensor]) -> nn.Module:
        result = awake(Gated(), seed=1)
        with torch.no_grad():
            result.head.bias.add_(1.0)
        return result

    monkeypatch.setattr(import_module("edgeprune.surgery.apply"), "apply_in_place", wrong)
    with pytest.raises(VerificationError, match="differ"):
        apply_plan(model, analysis, random_plan(analysis, 0), "modules")


class Finished(nn.Module):
    """Two layers, and ``end`` on what they give."""

    def __init__(self, end: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.end = nn.Linear(4, 8), nn.Linear(8, 3), end

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.last(self.first(x).relu()))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_not_evidence_even_where_both_agree(value: float) -> None:
    model = Finished(lambda y: torch.cat([y, torch.full_like(y, value)], 1)).eval()
    analysis = analyze(model, (torch.zeros(1, 4),))
    with pytest.raises(VerificationError, match="not finite"):
        apply(model, analysis, random_plan(analysis, 0))


def test_a_model_that_draws_random_numbers_is_compared_with_the_same_numbers() -> None:
    torch.manual_seed(0)
    model = Finished(lambda y: y + torch.rand_like(y)).eval()
    analysis, state = analyze(model, (torch.zeros(1, 4),)), torch.get_rng_state()
    assert apply(model, analysis, random_plan(analysis, 0)).error < 1e-5
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("network", [OptionA, Shuffle])
def test_a_checkpoint_loads_into_a_fresh_model(network: type[nn.Module], tmp_path: Path) -> None:
    model = awake(network())
    analysis = analyze(model, IMAGE)
    pruned = apply(model, analysis, random_plan(analysis, 3))
    with torch.no_grad():
        for parameter in pruned.model.parameters():
            parameter.add_(0.01)
    path = save(tmp_path / "model.safetensors", pruned, analysis, IMAGE)
    loaded = load(network(), path)
    inputs = (torch.randn(2, 3, 8, 8),)
    assert torch.equal(outputs_of(loaded, inputs)[0], outputs_of(pruned.model, inputs)[0])


def test_damaged_and_foreign_checkpoints_are_refused(tmp_path: Path) -> None:
    model = awake(OptionA())
    analysis = analyze(model, IMAGE)
    path = save(tmp_path / "model.safetensors", apply(model, analysis, random_plan(analysis, 3)), analysis, IMAGE)
    with pytest.raises(CheckpointError, match="does not fit"):
        load(Gated(), path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(OptionA(), path)
    with pytest.raises(CheckpointError, match="does not exist"):
        load(OptionA(), tmp_path / "none.safetensors")


def test_plans_of_another_structure_and_malformed_ones_are_refused() -> None:
    model = awake(OptionA())
    analysis = analyze(model, IMAGE)
    plan = random_plan(analysis, 0)
    assert Plan.from_json(plan.to_json()) == plan
    with pytest.raises(PlanError, match="another model structure"):
        apply(Gated(), analyze(Gated(), IMAGE), plan)
    with pytest.raises(PlanError, match="unknown group"):
        apply(model, analysis, Plan(plan.fingerprint, {"nowhere": ((0,),)}))
    for rows in ((), ((),), ((1, 0),), ((0, 99),), ((0,), (1,))):
        with pytest.raises(PlanError, match="does not fit"):
            apply(model, analysis, Plan(plan.fingerprint, {"stem": rows}))
    with pytest.raises(PlanError, match="not a plan"):
        Plan.from_json('{"kept": 1}')


def test_restore_is_the_inverse_of_cutting() -> None:
    model = awake(OptionA())
    analysis = analyze(model, IMAGE)
    plan = random_plan(analysis, 4)
    again = restore(model, analysis, apply(model, analysis, plan))
    wanted = masked(model, analysis, plan).state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in again.state_dict().items())


def test_tied_weights_stay_tied() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)
            self.second.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.second(torch.relu(self.first(x))).relu())

    model = nn.Sequential(nn.Linear(4, 6), Tied()).eval()
    analysis = analyze(model, (torch.zeros(1, 4),))
    pruned = apply(model, analysis, random_plan(analysis, 0))
    assert pruned.model[1].first.weight is pruned.model[1].second.weight
    assert pruned.model[1].first.weight.shape == (3, 3)


# Random networks out of the supported operations


class Random(nn.Module):
    """A random chain of convolutions, norms, residual additions, concatenations, gates and pools, from a list of small integers."""

    def __init__(self, steps: list[int]) -> None:
        super().__init__()
        self.steps, self.layers, width = steps, nn.ModuleList([nn.Conv2d(3, 8, 3, 1, 1)]), 8
        for step in steps:
            made, width = self._layer(step, width)
            self.layers.append(made)
        self.head = nn.Linear(width, 3)

    @staticmethod
    def _layer(step: int, width: int) -> tuple[nn.Module, int]:
        if step == 0:
            return nn.Sequential(nn.Conv2d(width, width, 3, 1, 1), nn.BatchNorm2d(width), nn.ReLU()), width  # added
        if step == 1:
            return nn.Conv2d(width, 4, 1), width + 4  # concatenated
        if step == 2:
            return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, width, 1), nn.Sigmoid()), width  # multiplied
        if step == 3:
            return nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, groups=width), nn.BatchNorm2d(width)), width
        if step == 4:
            return nn.Conv2d(width, 2 * width, 3, 1, 1, groups=2 if width % 2 == 0 else 1), 2 * width
        return nn.Identity(), width + 4  # padded with zero channels

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers[0](x)
        for step, layer in zip(self.steps, self.layers[1:], strict=True):
            if step == 0:
                x = x + layer(x)
            elif step == 1:
                x = torch.cat([layer(x), x], 1)
            elif step == 2:
                x = x * layer(x)
            elif step in (3, 4):
                x = torch.nn.functional.relu6(layer(x))
            else:
                x = torch.nn.functional.pad(x, (0, 0, 0, 0, 2, 2))
        return self.head(x.mean((2, 3)))


def cut_exactly(steps: list[int], seed: int, share: float) -> None:
    torch.manual_seed(seed)
    model = awake(Random(steps), seed)
    inputs = (torch.randn(1, 3, 6, 6),)
    analysis = analyze(model, inputs)
    plan = random_plan(analysis, seed, share)
    pruned = apply(model, analysis, plan)
    assert pruned.error < 1e-4
    for group in analysis.groups:
        assert plan.width(group) == max(1, int(group.size * share))


NETWORKS = (st.lists(st.integers(0, 5), min_size=1, max_size=5), st.integers(0, 1000), st.sampled_from([0.3, 0.6, 0.9]))
random_networks = partial(settings, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@random_networks(max_examples=3)
@example([0, 1, 2], 1, 0.6)
@example([3, 4, 5, 0], 2, 0.3)
@given(*NETWORKS)
def test_every_random_network_is_cut_exactly(steps: list[int], seed: int, share: float) -> None:
    cut_exactly(steps, seed, share)


@pytest.mark.soak
@random_networks(max_examples=200)
@given(*NETWORKS)
def test_two_hundred_random_networks_are_cut_exactly(steps: list[int], seed: int, share: float) -> None:
    cut_exactly(steps, seed, share)
