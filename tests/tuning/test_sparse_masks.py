"""Which single weights go, and training that makes a model sparse: exact shares, exact zeros, the same result after an interruption."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from blobs import blobs as made_blobs
from torch import nn

from edgeprune.errors import CheckpointError, InputError
from edgeprune.graph import analyze
from edgeprune.importance.unstructured import apply_masks, quantile_masks, sparse_parameters, sparsity_of, threshold_masks
from edgeprune.surgery import apply, plan_from_saliency
from edgeprune.task import Task
from edgeprune.tuning.sparsify import sparsify


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 24, 1), nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 24, 3, 1, 1, groups=24),
            nn.Conv2d(24, 16, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2),
        )  # fmt: skip


blobs = partial(made_blobs, 96, 16)


def task(**changes: object) -> Task:
    settings: dict[str, object] = {"train": blobs(), "validation": blobs(), "epochs": 4, "learning_rate": 0.05, "name": "blobs"} | changes
    return Task(settings.pop("model", network()), (torch.zeros(1, 3, 8, 8),), **settings)  # type: ignore[arg-type]


def test_pointwise_convolutions_and_linear_layers_are_chosen() -> None:
    assert list(sparse_parameters(network())) == ["2.weight", "6.weight", "10.weight"]
    assert list(sparse_parameters(network(), linear=False)) == ["2.weight", "6.weight"]
    shared = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    shared[2].weight = shared[0].weight
    assert list(sparse_parameters(shared)) == ["0.weight"]
    with pytest.raises(InputError, match="no 1x1 convolution and no linear layer"):
        sparse_parameters(nn.Conv2d(3, 4, 3))


def test_the_weights_of_a_graph_are_found_too() -> None:
    model = network().eval()
    analysis = analyze(model, (torch.zeros(1, 3, 8, 8),))
    saliency = {group.name: torch.rand(group.rows.shape).numpy() for group in analysis.groups}
    plan = plan_from_saliency(analysis, saliency, {group.name: max(1, group.size // 2) for group in analysis.groups})
    modules, graph = (apply(model, analysis, plan, mode).model for mode in ("modules", "graph"))
    shapes = [{name: tuple(weight.shape) for name, weight in sparse_parameters(one).items()} for one in (modules, graph)]
    assert sorted(shapes[0].values()) == sorted(shapes[1].values()) != []


def test_a_threshold_takes_what_is_below_it() -> None:
    weights = {"a": torch.tensor([[0.1, -0.5], [0.5, -0.2]]), "b": torch.tensor([[0.01, 0.02]])}
    masks = threshold_masks(weights, 0.5)
    assert masks["a"].tolist() == [[False, True], [True, False]]
    assert masks["b"].tolist() == [[False, True]]  # the largest of every parameter stays
    blocks = threshold_masks({"a": torch.tensor([[0.9, 0.1], [0.3, 0.1]])}, 0.5, block=2)
    assert blocks["a"].tolist() == [[True, False], [True, False]]
    with pytest.raises(InputError, match=r"theta -1"):
        threshold_masks(weights, -1)


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("block", [1, 2, 4])
def test_a_quantile_takes_exactly_that_share_of_the_smallest(scope: str, block: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = {"a": torch.randn(16, 30, 1, 1, generator=generator), "b": 3 * torch.randn(8, 20, generator=generator)}
    masks = quantile_masks(weights, 0.75, scope, block)  # type: ignore[arg-type]
    kept = {name: int(mask.sum()) for name, mask in masks.items()}
    if scope == "layer":
        assert kept == {"a": 120, "b": 40}
    else:
        assert sum(kept.values()) == 160
        assert kept["b"] > 80  # its weights are larger
    for name, mask in masks.items():
        score = weights[name].abs().flatten(1).unflatten(0, (-1, block)).mean(1)
        together = mask.flatten(1).unflatten(0, (-1, block))
        assert torch.equal(together.any(1), together.all(1))
        assert score[together.any(1)].min() >= score[~together.any(1)].max()


def test_equal_weights_are_still_shared_out_exactly() -> None:
    masks = quantile_masks({"a": torch.ones(10, 10)}, 0.9)
    assert int(masks["a"].sum()) == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((1.0,), "sparsity 1.0"), ((-0.1,), "sparsity -0.1"), ((0.5, "module"), "scope 'module'"), ((0.5, "layer", 3), "block 3")],
)
def test_impossible_masks_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(InputError, match=message):
        quantile_masks({"a": torch.ones(2, 2)}, *arguments)


def test_masks_are_exact_zeros() -> None:
    model = network()
    parameters = sparse_parameters(model)
    apply_masks(parameters, quantile_masks(parameters, 0.85))
    total = sum(weight.numel() for weight in parameters.values())
    assert sparsity_of(parameters) == pytest.approx(round(0.85 * total) / total)
    assert sparsity_of({"all": torch.cat([weight.flatten() for weight in parameters.values()])}) == sparsity_of(parameters)


def test_training_reaches_the_sparsity_and_learns() -> None:
    model = network()
    seen: list[float] = []
    job = task(epochs=6)
    result = sparsify(model, job, 0.85, on_progress=lambda done, total, loss: seen.append(sparsity_of(sparse_parameters(model))))
    assert result.sparsity == pytest.approx(0.85, abs=0.002)
    assert result.layers.keys() == sparse_parameters(model).keys()
    assert seen == sorted(seen)
    assert len(seen) == 36
    assert seen[10] == pytest.approx(0.85 * (1 - 0.5**3), abs=0.01)  # half of the way up, which takes 22 of the 36 steps
    assert seen[15] < seen[21] == seen[-1] == result.sparsity
    assert result.tuned.score is not None
    assert result.tuned.score > 85


def test_an_interrupted_sparsification_ends_with_the_same_weights(tmp_path) -> None:
    straight = network()
    sparsify(straight, task(), 0.8)
    broken, path = network(), tmp_path / "tune.safetensors"

    def stop(done: int, total: int, loss: float) -> None:
        if done == 15:  # in the middle of the third epoch
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sparsify(broken, task(), 0.8, checkpoint=path, on_progress=stop)
    resumed = network()
    result = sparsify(resumed, task(), 0.8, checkpoint=path)
    assert result.tuned.steps == 24
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    with pytest.raises(CheckpointError, match=r"80 % sparse.*not .*70 % sparse"):
        sparsify(network(), task(), 0.7, checkpoint=path)


def test_a_sparse_model_stays_sparse_while_it_is_trained_further() -> None:
    model = network()
    sparsify(model, task(train=None), 0.7)
    before = {name: weight == 0 for name, weight in sparse_parameters(model).items()}
    seen: list[float] = []
    sparsify(model, task(epochs=2), 0.8, on_progress=lambda done, total, loss: seen.append(sparsity_of(sparse_parameters(model))))
    assert min(seen) >= 0.699
    assert seen[-1] == pytest.approx(0.8, abs=0.003)
    for name, weight in sparse_parameters(model).items():
        assert not weight[before[name]].any()


def test_a_users_own_fit_cannot_bring_weights_back() -> None:
    def fit(model: nn.Module) -> None:
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for inputs, targets in blobs():
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()

    model = network()
    before = copy.deepcopy(model)
    result = sparsify(model, task(fit=fit), 0.6)
    assert result.sparsity == pytest.approx(0.6, abs=0.002)
    masks = quantile_masks(sparse_parameters(before), 0.6, "layer")
    for name, weight in sparse_parameters(model).items():
        assert torch.equal(weight != 0, masks[name])
        assert not torch.equal(weight[masks[name]], sparse_parameters(before)[name][masks[name]])


def test_without_training_the_weights_only_go() -> None:
    model = network()
    dense = copy.deepcopy(model)
    result = sparsify(model, task(train=None), 0.7, linear=False, scope="layer")
    assert all(share == pytest.approx(0.7, abs=0.003) for share in result.layers.values())
    assert list(result.layers) == ["2.weight", "6.weight"]
    for name, weight in sparse_parameters(model).items():
        before = sparse_parameters(dense)[name]
        assert torch.equal(weight[weight != 0], before[weight != 0])
    assert result.tuned.steps == 0
