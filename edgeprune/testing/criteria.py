"""What every criterion must do.  Inherit from :class:`CriterionContract` and give the fixture."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from edgeprune.errors import InputError
from edgeprune.graph import Analysis, Group, analyze
from edgeprune.graph.exported import tensor_at
from edgeprune.importance import CRITERIA, Saliency, score
from edgeprune.surgery.parameters import keep_masks, masked_copy
from edgeprune.task import Task
from edgeprune.testing.networks import awake


class Mobile(nn.Module):
    """A residual trunk that passes a depthwise convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.expand = nn.Sequential(nn.Conv2d(8, 12, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU6())
        self.depthwise = nn.Sequential(nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False), nn.BatchNorm2d(12), nn.ReLU6())
        self.project = nn.Sequential(nn.Conv2d(12, 8, 1, bias=False), nn.BatchNorm2d(8))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.project(self.depthwise(self.expand(x)))
        scores: Tensor = self.head(x.mean((2, 3)))
        return scores


class Attentive(nn.Module):
    """Pixels as tokens: positions, attention with four heads, layer norm, and an MLP, all on one trunk."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 4, 4, bias=False), nn.BatchNorm2d(16))
        self.position = nn.Parameter(torch.randn(1, 4, 16))
        self.norm = nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 16))
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2) + self.position
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x + self.mlp(x)
        scores: Tensor = self.head(x.mean(1))
        return scores


class Recurrent(nn.Module):
    """An LSTM over the rows of an image, behind a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv1d(24, 10, 3, padding=1, bias=False), nn.BatchNorm1d(10), nn.ReLU())
        self.lstm = nn.LSTM(10, 8, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.lstm(self.stem(x.flatten(1, 2)).transpose(1, 2))
        scores: Tensor = self.head(functional.relu(states[:, -1]))
        return scores


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "residual-depthwise": Mobile,
    "attention-heads": Attentive,
    "attention-dimensions": Attentive,
    "lstm": Recurrent,
}


def make_task(network: str) -> Task:
    """One of ``NETWORKS`` with seeded weights, and a shuffled loader of 48 random images of 3 x 8 x 8 in 4 classes."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = awake(NETWORKS[network]())
        data = TensorDataset(torch.randn(48, 3, 8, 8), torch.randint(0, 4, (48,)))
    loader = DataLoader(data, batch_size=16, shuffle=True)
    task = Task(model, (torch.zeros(1, 3, 8, 8),), train=loader, name=network)
    task.attention = "dimensions" if network == "attention-dimensions" else "heads"
    return task


@cache
def _analysis(network: str) -> Analysis:
    task = make_task(network)
    return analyze(task.model, task.example_inputs, attention=task.attention)


class CriterionContract:
    """Fixtures to give.

    ``criterion``: the name of a registered criterion. ``knows_zeros``: whether it must find that a channel all of whose weights are zero
    matters least (true unless given); ``follows_order``: whether channels that trade places must trade scores (true unless given).
    """

    @pytest.fixture
    def knows_zeros(self) -> bool:
        return True

    @pytest.fixture
    def follows_order(self) -> bool:
        return True

    @pytest.fixture(params=list(NETWORKS))
    def task(self, request: pytest.FixtureRequest) -> Task:
        return make_task(request.param)

    @pytest.fixture
    def analysis(self, task: Task) -> Analysis:
        return _analysis(task.name)

    def test_scores_every_channel_with_a_number_from_zero_up(self, criterion: str, task: Task, analysis: Analysis) -> None:
        saliency = score(task, analysis, criterion)
        assert set(saliency) == {group.name for group in analysis.groups}
        for group in analysis.groups:
            assert saliency[group.name].shape == group.rows.shape
            assert np.isfinite(saliency[group.name]).all()
            assert (saliency[group.name] >= 0).all()
        assert any(values.any() for values in saliency.values())

    def test_is_comparable_or_one_on_average(self, criterion: str, task: Task, analysis: Analysis) -> None:
        if not CRITERIA[criterion].comparable:
            for values in score(task, analysis, criterion).values():
                assert values.mean() == pytest.approx(1.0)

    def test_repeats_itself_and_touches_no_random_state(self, criterion: str, task: Task, analysis: Analysis) -> None:
        torch.manual_seed(1)
        first, drawn = score(task, analysis, criterion), torch.rand(1)
        torch.manual_seed(1)
        assert torch.equal(torch.rand(1), drawn)
        second = score(task, analysis, criterion)
        assert all(np.array_equal(first[name], second[name]) for name in first)

    def test_leaves_the_model_as_it_was(self, criterion: str, task: Task, analysis: Analysis) -> None:
        model = task.model
        model.train()
        frozen, *rest = model.parameters()
        frozen.requires_grad_(False)
        rest[0].grad = torch.ones_like(rest[0])
        next(model.children()).eval()
        before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
        score(task, analysis, criterion)
        after = model.state_dict()
        assert all(torch.equal(after[name], before[name]) for name in before)
        assert [module.training for module in model.modules()] == modes
        assert not frozen.requires_grad
        assert all(parameter.requires_grad for parameter in rest)
        assert torch.equal(rest[0].grad, torch.ones_like(rest[0]))
        assert all(parameter.grad is None for parameter in rest[1:])

    def test_a_channel_of_zeros_matters_least(self, criterion: str, task: Task, analysis: Analysis, knows_zeros: bool) -> None:
        if not knows_zeros:
            pytest.skip(f"{criterion} does not look at what a channel holds")
        for group in analysis.groups:
            gone = np.zeros(len(analysis.roots), bool)
            gone[group.rows[0, 1]] = True
            silent = _with(task, masked_copy(task.model, keep_masks(analysis, gone)))
            row = score(silent, analysis, criterion)[group.name][0]
            assert row[1] == row.min(), group.name

    def test_channels_that_trade_places_trade_scores(self, criterion: str, task: Task, analysis: Analysis, follows_order: bool) -> None:
        if not follows_order:
            pytest.skip(f"{criterion} goes by places")
        before = score(task, analysis, criterion)
        for group in analysis.groups:
            after = score(_with(task, _traded(task.model, analysis, group)), analysis, criterion)
            expected = {name: values.copy() for name, values in before.items()}
            expected[group.name][0, [0, 1]] = expected[group.name][0, [1, 0]]
            for name, values in expected.items():
                np.testing.assert_allclose(after[name], values, rtol=1e-3, atol=1e-4 * values.max(), err_msg=f"{group.name} -> {name}")

    def test_says_what_it_needs(self, criterion: str, task: Task, analysis: Analysis) -> None:
        without = _with(task, task.model)
        without.train = None
        if CRITERIA[criterion].needs_data:
            with pytest.raises(InputError, match=f"{criterion}.*training data") as caught:
                score(without, analysis, criterion)
            assert caught.value.remedy
        else:
            assert _equal(score(without, analysis, criterion), score(task, analysis, criterion))


def _equal(one: Saliency, other: Saliency) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def _with(task: Task, model: nn.Module) -> Task:
    result = copy.copy(task)
    result.model = model
    return result


def _traded(model: nn.Module, analysis: Analysis, group: Group) -> nn.Module:
    """A copy in which the first two channels of the group's first row have traded places: it computes the same."""
    result = copy.deepcopy(model)
    with torch.no_grad():
        for tensor, channels in _owned(result, analysis):
            flat = tensor.flatten()
            first, second = ((channels == channel).flatten().nonzero().flatten() for channel in group.rows[0, :2].tolist())
            flat[first], flat[second] = flat[second], flat[first]
            tensor.copy_(flat.reshape(tensor.shape))
    return result


def _owned(model: nn.Module, analysis: Analysis) -> Iterator[tuple[Tensor, Tensor]]:
    for (name, _), labels in analysis.flow.owners.items():
        tensor = tensor_at(model, name)
        yield tensor, analysis.channels_of(labels).expand(tensor.shape)
