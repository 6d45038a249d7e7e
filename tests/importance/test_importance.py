"""Criteria against values worked out by hand, by differences, or by enumeration."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from edgeprune.errors import InputError, TrainingError
from edgeprune.graph import Analysis, analyze
from edgeprune.importance import CRITERIA, criterion, score
from edgeprune.importance.data import SAMPLES, pieces
from edgeprune.importance.watch import reading_places
from edgeprune.task import Task


def two_layers(first: list[list[float]], second: list[list[float]], activation: nn.Module | None = None) -> nn.Sequential:
    """Linear layers without biases with these weights, and ``activation`` between."""
    layers = [nn.Linear(len(rows[0]), len(rows), bias=False) for rows in (first, second)]
    with torch.no_grad():
        for layer, rows in zip(layers, (first, second), strict=True):
            layer.weight.copy_(torch.tensor(rows))
    return nn.Sequential(layers[0], activation or nn.ReLU(), layers[1]).eval()


def made(model: nn.Module, inputs: Tensor, targets: Tensor | None = None, batch: int = 32) -> tuple[Task, Analysis]:
    targets = torch.zeros(len(inputs), dtype=torch.int64) if targets is None else targets
    train = list(zip(inputs.split(batch), targets.split(batch), strict=True))
    return Task(model, (inputs[:1],), train=train), analyze(model, (inputs[:1],))


def only(saliency: dict[str, np.ndarray]) -> np.ndarray:
    (values,) = saliency.values()
    return values[0]


def test_magnitudes_count_rows_and_columns() -> None:
    task, analysis = made(two_layers([[3.0, 0.0], [0.0, -1.0]], [[4.0, 2.0], [0.0, -2.0]]), torch.ones(4, 2))
    assert only(score(task, analysis, "l1")) == pytest.approx(np.array([7.0, 5.0]) / 6.0)
    assert only(score(task, analysis, "l2")) == pytest.approx(np.array([5.0, 3.0]) / 4.0)


def test_lamp_is_a_share_of_what_is_left() -> None:
    task, analysis = made(two_layers([[3.0], [1.0], [2.0]], [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]), torch.ones(4, 1))
    assert only(score(task, analysis, "lamp")) == pytest.approx([1.0, 1 / 14, 4 / 13])


def test_fpgm_is_least_at_the_geometric_median() -> None:
    task, analysis = made(two_layers([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]], [[9.0, 0.0, 0.0]] * 2), torch.ones(4, 2))
    assert only(score(task, analysis, "fpgm")) == pytest.approx(np.array([15.0, 10.0, 15.0]) / (40 / 3))


def test_filters_that_coincide_are_uniform() -> None:
    task, analysis = made(two_layers([[0.1, 0.7], [0.1, 0.7], [0.1, 0.7]], [[9.0, 0.0, 1.0]] * 2), torch.ones(4, 2))
    assert only(score(task, analysis, "fpgm")).tolist() == [1.0, 1.0, 1.0]


def test_activations_are_those_that_readers_see() -> None:
    inputs = torch.tensor([[1.0], [-1.0], [3.0], [1.0]])
    task, analysis = made(two_layers([[1.0], [-1.0], [2.0]], [[1.0, 1.0, 1.0]] * 2), inputs)
    assert only(score(task, analysis, "activation")) == pytest.approx(np.array([5.0, 1.0, 10.0]) / (16 / 3))
    assert only(score(task, analysis, "apoz")) == pytest.approx(np.array([0.75, 0.25, 0.75]) / (1.75 / 3))


def test_zeros_are_counted_before_a_pooling_hides_them() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1))
    image = torch.tensor([[1.0, 2.0], [3.0, -1.0]]).expand(4, 1, 2, 2)
    task, analysis = made(model.eval(), image.contiguous())
    assert only(score(task, analysis, "apoz")) == pytest.approx([1.5, 0.5])
    assert [str(node.target) for node in reading_places(analysis)] == ["aten.relu.default"]


def test_bn_scales_are_summed_over_a_trunk_and_groups_without_count_as_uniform() -> None:
    class Trunk(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = (nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)) for _ in range(2))
            self.inner, self.head = nn.Conv2d(2, 3, 1), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            scores: Tensor = self.head(self.inner(x + self.second(x)).mean((2, 3)))
            return scores

    model = Trunk().eval()
    with torch.no_grad():
        model.first[1].weight.copy_(torch.tensor([1.0, -2.0]))
        model.second[1].weight.copy_(torch.tensor([0.0, 3.0]))
    task, analysis = made(model, torch.ones(4, 2, 2, 2))
    trunk, inner = score(task, analysis, "bn-scale").values()
    assert trunk[0] == pytest.approx(np.array([1.0, 5.0]) / 3)
    assert inner[0] == pytest.approx([1.0, 1.0, 1.0])


def gated_loss(task: Task, place: int, gate: float, inputs: Tensor, targets: Tensor) -> Tensor:
    """The loss of a model of two layers when the readers of unit ``place`` see ``gate`` of it."""
    first, activation, second = task.model
    hidden = activation(first(inputs)).double()
    scale = torch.ones(hidden.shape[1], dtype=torch.float64)
    scale[place] = gate
    return functional.cross_entropy(hidden * scale @ second.weight.double().T, targets)


def random_task(seed: int, samples: int, inner: int = 6) -> tuple[Task, Analysis, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs, targets = torch.randn(samples, 5, generator=generator), torch.randint(0, 3, (samples,), generator=generator)
    weights = (torch.randn(inner, 5, generator=generator).tolist(), torch.randn(3, inner, generator=generator).tolist())
    return *made(two_layers(*weights, nn.GELU()), inputs, targets), inputs, targets


def test_taylor_is_the_squared_slope_of_the_loss_in_the_gate() -> None:
    task, analysis, inputs, targets = random_task(0, 96)
    expected, step = np.zeros(6), 1e-5
    for place in range(6):
        for x, y in zip(inputs.split(8), targets.split(8), strict=True):
            above, below = (float(gated_loss(task, place, gate, x, y)) for gate in (1 + step, 1 - step))
            expected[place] += ((above - below) / (2 * step)) ** 2 / 12
    assert only(score(task, analysis, "taylor")) == pytest.approx(expected, rel=1e-3)


def test_fisher_is_half_the_slope_squared_averaged_over_the_models_own_answers() -> None:
    task, analysis, inputs, _ = random_task(1, SAMPLES)
    first, activation, second = task.model
    with torch.no_grad():
        hidden, share = activation(first(inputs)), task.model(inputs).softmax(1)
        slopes = torch.einsum("nya,ak,nk->nyk", share[:, None] - torch.eye(3), second.weight, hidden)  # of the loss of answer y, in gate k
        expected = torch.einsum("ny,nyk->k", share, slopes**2).numpy() / 2 / len(inputs)
    found = []
    for seed in range(10):  # one call draws an answer a sample, in 96 pieces: a spread of 15 %, of ten together 5 %
        order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))
        task.train = [(inputs[order], torch.zeros(len(inputs), dtype=torch.int64))]
        found.append(only(score(task, analysis, "fisher")))
    assert np.mean(found, 0) == pytest.approx(expected, rel=0.2)


def test_fisher_sees_what_taylor_cannot_on_data_learnt_by_heart() -> None:
    task, analysis, inputs, _ = random_task(2, 64)
    with torch.no_grad():
        task.model[2].weight.mul_(30.0)
        targets = task.model(inputs).argmax(1)
    certain, _ = made(task.model, inputs, targets)
    assert only(score(certain, analysis, "fisher")).max() > 0


def test_fisher_knows_that_new_statistics_make_up_for_a_shifted_mean() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 6, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        model[0].weight[2], model[0].bias[2] = 0.0, 5.0  # what its readers see never changes
    inputs, targets = torch.randn(57, 3, 4, 4, generator=generator), torch.randint(0, 3, (57,), generator=generator)
    task, analysis = made(model.eval(), inputs, targets, batch=57)  # the last piece is one sample
    tracked = [buffer.clone() for buffer in model[3].buffers()]
    fisher, taylor = (score(task, analysis, name)["0"][0] for name in ("fisher", "taylor"))
    assert fisher[2] < 0.1 * np.median(fisher)
    assert taylor[2] > np.median(taylor)
    assert all(torch.equal(buffer, before) for buffer, before in zip(model[3].buffers(), tracked, strict=True))


def test_fisher_takes_given_targets_where_answers_are_not_classes() -> None:
    task, analysis, inputs, _ = random_task(3, 64)
    goals = torch.randn(64, 3, generator=torch.Generator().manual_seed(1))
    task.train = list(zip(inputs.split(8), goals.split(8), strict=True))
    task.loss = functional.mse_loss
    expected, step = np.zeros(6), 1e-4
    first, activation, second = task.model
    for place in range(6):
        for x, y in task.train:
            losses = []
            for gate in (1 + step, 1 - step):
                scale = torch.ones(6, dtype=torch.float64)
                scale[place] = gate
                losses.append(float(functional.mse_loss(activation(first(x)).double() * scale @ second.weight.double().T, y.double())))
            expected[place] += 8 * ((losses[0] - losses[1]) / (2 * step)) ** 2 / 2 / 8
    assert only(score(task, analysis, "fisher")) == pytest.approx(expected, rel=1e-3)


@settings(max_examples=15, deadline=None)
@given(st.floats(0.01, 100.0), st.integers(0, 1000))
def test_weights_of_another_scale_score_equally(factor: float, seed: int) -> None:
    task, analysis, *_ = random_task(seed % 5, 8)
    before = {name: only(score(task, analysis, name)) for name in ("l1", "l2", "lamp", "fpgm")}
    with torch.no_grad():
        for parameter in task.model.parameters():
            parameter.mul_(factor)
    for name, values in before.items():
        assert only(score(task, analysis, name)) == pytest.approx(values, rel=1e-4), name


def test_pieces_stop_when_there_were_enough_and_keep_odd_batches_whole() -> None:
    model = nn.Linear(2, 2)
    odd = ((torch.zeros(5, 2), torch.zeros(7, 2)), torch.zeros(5))
    train = [(torch.zeros(70, 2), torch.zeros(70)), odd, (torch.zeros(70, 2), torch.zeros(70))]
    sizes = [len(piece.targets) for piece in pieces(Task(model, (torch.zeros(1, 2),), train=train), 32, 150)]
    assert sizes == [32, 32, 6, 5, 32, 32]
    with pytest.raises(InputError, match="no batches"):
        next(pieces(Task(model, (torch.zeros(1, 2),), train=[]), 32))


class FixedBatch(nn.Module):
    """A model whose code knows only one sample at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(torch.relu(self.inner(x.reshape(1, 3))))
        return scores


def test_a_graph_of_one_batch_size_is_shown_that_many_samples_at_a_time() -> None:
    model, inputs = FixedBatch().eval(), torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    analysis = analyze(model, (inputs[:1],))
    assert not analysis.captured.any_batch
    task = Task(model, (inputs[:1],), train=[(inputs, torch.zeros(6, dtype=torch.int64))])
    with torch.no_grad():
        mean = torch.relu(model.inner(inputs)).mean(0).numpy()
    assert only(score(task, analysis, "activation")) == pytest.approx(mean / mean.mean(), rel=1e-5)


def test_unknown_names_weights_that_are_not_numbers_and_losses_that_are_none_are_reported() -> None:
    task, analysis, *_ = random_task(0, 32)
    with pytest.raises(InputError, match="unknown criterion 'l3'") as caught:
        score(task, analysis, "l3")
    assert "fisher, fpgm, l1, l2" in str(caught.value.remedy)
    with pytest.raises(InputError, match="needs batch-norm"):
        score(task, analysis, "bn-scale")
    with torch.no_grad():
        task.model[0].weight[0, 0] = torch.nan
    with pytest.raises(InputError, match="criterion l1 gave group 0 a score"):
        score(task, analysis, "l1")
    with pytest.raises(TrainingError, match="loss of the dense model is nan"):
        score(task, analysis, "taylor")


def test_a_second_criterion_of_one_name_is_an_error() -> None:
    with pytest.raises(ValueError, match="already registered"):
        criterion("l1")(CRITERIA["l2"].function)
