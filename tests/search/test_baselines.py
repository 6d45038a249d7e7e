"""The baselines: each meets its predicted budget by its own rule; HALP's knapsack is optimal."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch
from torch import nn

from edgeprune.cost.prior import PriorTimes, power_of
from edgeprune.errors import InfeasibleBudgetError, InputError
from edgeprune.graph import analyze
from edgeprune.profile import load as load_profile
from edgeprune.search.baselines import BASELINES, SearchContext, halp, netadapt
from edgeprune.search.baselines.halp import frozen_costs, knapsack
from edgeprune.search.plan.planner import Planner, all_choices
from edgeprune.surgery import apply, outputs_of
from edgeprune.task import Task

PROFILE = "raspberry-pi-4"


def convolution(width_in: int, width: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())


class Network(nn.Module):
    """A residual network of three groups: the trunk, the inside of its block, and a wider tail."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.outer = convolution(3, 32), convolution(32, 64), nn.Conv2d(64, 32, 1)
        self.tail, self.head = convolution(32, 96, 2), nn.Linear(96, 4)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = self.stem(inputs)
        hidden = torch.relu(self.outer(self.inner(hidden)) + hidden)
        return self.head(self.tail(hidden).mean((2, 3)))


@pytest.fixture(scope="module")
def context() -> SearchContext:
    torch.manual_seed(0)
    model = Network().eval()
    labels = torch.arange(96) % 4
    images = torch.randn(96, 3, 16, 16) + labels.view(-1, 1, 1, 1)
    batches = [(images[start : start + 16], labels[start : start + 16]) for start in range(0, 96, 16)]
    task = Task(model, (torch.zeros(1, 3, 16, 16),), train=batches)
    analysis = analyze(model, task.example_inputs)
    profile = load_profile(PROFILE)
    return SearchContext(task, analysis, Planner(analysis, PriorTimes(profile), all_choices(analysis, 8), power_of(profile)))


def widths_of(context: SearchContext, plan) -> dict[str, int]:
    return {group.name: plan.width(group) for group in context.analysis.groups}


@pytest.mark.parametrize("method", BASELINES)
@pytest.mark.parametrize("share", [0.7, 0.4])
def test_each_meets_its_predicted_budget_and_uses_it(context: SearchContext, method: str, share: float) -> None:
    target = share * context.latency_ms(context.planner.dense)
    plan = BASELINES[method](context, target)
    widths = widths_of(context, plan)
    assert 0.7 * target <= context.latency_ms(widths) <= target
    assert all(width in context.choices[name] for name, width in widths.items())
    pruned = apply(context.task.model, context.analysis, plan).model
    assert outputs_of(pruned, (torch.zeros(2, 3, 16, 16),))[0].shape == (2, 4)


@pytest.mark.parametrize("method", BASELINES)
def test_what_cannot_be_reached_is_said(context: SearchContext, method: str) -> None:
    with pytest.raises(InfeasibleBudgetError, match="the least is"):
        BASELINES[method](context, 1e-6)


def test_uniform_keeps_about_one_share_of_every_group(context: SearchContext) -> None:
    widths = widths_of(context, BASELINES["uniform"](context, 0.5 * context.latency_ms(context.planner.dense)))
    shares = [widths[name] / size for name, size in context.planner.dense.items()]
    assert max(shares) - min(shares) <= 0.25  # a step of 8 of the narrowest group's 32


def test_global_magnitude_takes_from_the_group_whose_channels_are_weak(context: SearchContext) -> None:
    saliency = context.saliency("l2")
    even = {name: np.ones_like(rows) for name, rows in saliency.items()}
    weak = "tail.0"
    even[weak][:, 24:] = 0.1
    other = SearchContext(context.task, context.analysis, context.planner, _saliency={"l2": even})
    just_less = 0.99 * context.latency_ms(context.planner.dense)
    widths = widths_of(other, BASELINES["global"](other, just_less))
    assert widths == {**context.planner.dense, weak: 24}


def test_halp_keeps_the_group_the_loss_depends_on(context: SearchContext) -> None:
    important = {name: np.ones_like(rows) for name, rows in context.saliency("taylor").items()}
    important["inner.0"][:] = 1e6
    other = SearchContext(context.task, context.analysis, context.planner, _saliency={"taylor": important})
    widths = widths_of(other, halp(other, 0.6 * context.latency_ms(context.planner.dense)))
    assert widths["inner.0"] == 64
    assert widths["tail.0"] < 96


def test_frozen_costs_are_the_table_s_differences(context: SearchContext) -> None:
    now = {**context.planner.dense, "stem.0": 24}
    costs = frozen_costs(context, "tail.0", [8, 48, 96], now)
    exact = [context.latency_ms({**now, "tail.0": width}) for width in (8, 48, 96)]
    (head,) = (kernel for kernel in context.planner.kernels if kernel.spec.kind == "fully_connected")
    heads = [context.planner.latency.kernel_ms(head, width, 4) for width in (8, 48, 96)]  # its input is frozen, so not in the costs
    wanted = [one - other - (exact[0] - heads[0]) for one, other in zip(exact, heads, strict=True)]
    assert costs == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_the_knapsack_is_optimal(seed: int) -> None:
    draw = random.Random(seed)
    values = [[0.0, *sorted(draw.uniform(0, 9) for _ in range(3))] for _ in range(5)]
    costs = [[0.0, *sorted(float(draw.randint(1, 9)) for _ in range(3))] for _ in range(5)]
    capacity = 20.0
    chosen = knapsack(values, costs, capacity)

    def total(table: list[list[float]], places: tuple[int, ...]) -> float:
        return sum(row[place] for row, place in zip(table, places, strict=True))

    best = max(total(values, places) for places in itertools.product(range(4), repeat=5) if total(costs, places) <= capacity)
    assert total(costs, tuple(chosen)) <= capacity
    assert total(values, tuple(chosen)) == pytest.approx(best)


def test_netadapt_continues_from_the_rounds_it_has(context: SearchContext) -> None:
    fresh = SearchContext(context.task, context.analysis, context.planner)
    dense = context.latency_ms(context.planner.dense)
    netadapt(fresh, 0.8 * dense)
    first = list(fresh.notes["netadapt"])
    deeper = netadapt(fresh, 0.6 * dense)
    states = fresh.notes["netadapt"]
    assert states[: len(first)] == first
    latencies = [fresh.latency_ms(state.widths) for state in states]
    assert latencies == sorted(latencies, reverse=True)
    assert latencies[0] == dense
    assert states[-1].plan == deeper
    for before, after in itertools.pairwise(states):  # one group a round, and never back
        changed = [name for name in before.widths if after.widths[name] != before.widths[name]]
        assert len(changed) == 1
        assert after.widths[changed[0]] < before.widths[changed[0]]


def test_netadapt_without_data_says_so(context: SearchContext) -> None:
    bare = Task(context.task.model, context.task.example_inputs)
    with pytest.raises(InputError, match="training data"):
        netadapt(SearchContext(bare, context.analysis, context.planner), 1.0)
