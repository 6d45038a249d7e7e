"""What edgeprune does to the memory layout of images never reaches a model that cannot take it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeprune import analyze
from edgeprune.batches import as_batch
from edgeprune.importance import score as saliency_of
from edgeprune.search.plan.sensitivity import importance_curves
from edgeprune.surgery import apply, plan_from_saliency, reconstruct
from edgeprune.task import Task
from edgeprune.tuning import finetune, outputs_on, recalibrate, score
from edgeprune.tuning.gates import GatedModel
from edgeprune.tuning.layout import laid_out, slices_keep_layout, takes_channels_last
from edgeprune.tuning.sparsify import sparsify


class Viewed(nn.Module):
    """Flattened by ``view`` after a convolution, as LeNets are."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8 * 36, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.conv(x)))
        scores: Tensor = self.head(x.view(x.size(0), -1))
        return scores


class Strided(Viewed):
    """Reads memory by strides: another layout raises nothing, and gives other numbers."""

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.conv(x)))
        scores: Tensor = self.head(x.as_strided((x.shape[0], 8 * 36), (8 * 36, 1)))
        return scores


class Standardised(Viewed):
    """Takes a view of a weight."""

    def forward(self, x: Tensor) -> Tensor:
        rows = self.conv.weight.view(8, -1)
        weight = (rows - rows.mean(1, keepdim=True)).view(8, 3, 3, 3)
        x = functional.relu(self.norm(functional.conv2d(x, weight, self.conv.bias)))
        scores: Tensor = self.head(x.flatten(1))
        return scores


class ViewedInTraining(Viewed):
    """Only its training takes a view."""

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.conv(x)))
        scores: Tensor = self.head(x.view(x.size(0), -1) if self.training else x.flatten(1))
        return scores


def data() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(8, 3, 8, 8, generator=generator), torch.arange(8) % 2) for _ in range(3)]


def task(model: nn.Module) -> Task:
    return Task(model.eval(), (torch.zeros(1, 3, 8, 8),), train=data(), validation=data(), epochs=1)


@pytest.mark.parametrize("kind", [Viewed, Strided, Standardised, ViewedInTraining])
def test_everything_that_runs_a_model_runs_one_that_needs_contiguous_memory(kind: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = kind()
    job = task(model)
    with torch.no_grad():
        wanted = [model(images) for images, _ in data()]
    for got, plain in zip(outputs_on(model, data()), wanted, strict=True):
        torch.testing.assert_close(got, plain, rtol=0.05, atol=0.05)  # bfloat16, on processors that have it
    assert score(model, job) == pytest.approx(
        100 * float(np.mean([float((plain.argmax(1) == labels).float().mean()) for plain, (_, labels) in zip(wanted, data(), strict=True)]))
    )
    assert recalibrate(model, data()) == 3
    assert finetune(model, job, teacher=model).steps == 3


def test_a_network_with_a_view_is_scored_cut_and_trained() -> None:
    torch.manual_seed(0)
    job = task(Viewed())
    analysis = analyze(job.model, job.example_inputs)
    saliency = saliency_of(job, analysis, "taylor")
    choices = {group.name: [2, 4, 8] for group in analysis.groups}
    assert set(importance_curves(job, analysis, saliency, choices)) == {group.name for group in analysis.groups}
    plan = plan_from_saliency(analysis, saliency, {group.name: 4 for group in analysis.groups})
    for mode in ("modules", "graph"):
        pruned = apply(reconstruct(job.model, analysis, plan, data()), analysis, plan, mode)  # type: ignore[arg-type]
        assert recalibrate(pruned.model, data()) == 3
        assert finetune(pruned.model, job, teacher=job.model).steps == 3
    gated = GatedModel(apply(job.model, analysis, plan), analysis, {group.name: 1.0 for group in analysis.groups}, 0.5, 3, 0.01)
    assert finetune(gated, job, teacher=job.model).steps == 3
    assert sparsify(pruned.model, job, 0.5, teacher=job.model).tuned.steps == 3


def test_images_are_channels_last_where_the_model_takes_them_so() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)).eval()
    (images,) = laid_out(model, as_batch(data()[0])).args
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert not images.is_contiguous()
    assert takes_channels_last(model, as_batch((images, None)), training=True)
    (images,) = laid_out(Viewed().eval(), as_batch(data()[0])).args
    assert images.is_contiguous()


@pytest.mark.parametrize("shape", [(4, 3, 16), (4, 3, 4, 8, 8)])
def test_series_and_volumes_keep_their_layout(shape: tuple[int, ...]) -> None:
    model = nn.Sequential({3: nn.Conv1d, 5: nn.Conv3d}[len(shape)](3, 4, 3), nn.Flatten())
    (given,) = laid_out(model, as_batch((torch.randn(shape), None))).args
    assert given.is_contiguous()


def test_trying_a_layout_changes_nothing() -> None:
    torch.manual_seed(0)
    model = Viewed()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    takes_channels_last(model, as_batch(data()[0]), training=True)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(parameter.grad is None and parameter.is_contiguous() for parameter in model.parameters())


class Shortcut(nn.Module):
    """Takes every second pixel beside a convolution, as the shortcuts of ResNet-20 do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, 2, padding=1)
        self.gradients: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        features = functional.relu(self.first(x))
        features.register_hook(self.gradients.append)
        result: Tensor = self.second(features) + features[:, :, ::2, ::2]
        return result


def test_gradients_of_slices_lie_as_the_activations_do_while_a_model_trains() -> None:
    torch.manual_seed(0)
    model = Shortcut().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.randn(4, 3, 8, 8).contiguous(memory_format=torch.channels_last)

    def gradients() -> list[Tensor]:
        model.zero_grad()
        model(images).square().sum().backward()
        return [*(value.grad for value in model.parameters() if value.grad is not None), model.gradients[-1]]

    usual = gradients()
    with slices_keep_layout(), slices_keep_layout():
        kept = gradients()
    with pytest.raises(ZeroDivisionError), slices_keep_layout():
        _ = 1 // 0
    assert kept[-1].is_contiguous(memory_format=torch.channels_last)
    assert all(map(torch.equal, usual, kept))
    assert gradients()[-1].is_contiguous(), "PyTorch's own is back"


@pytest.mark.parametrize(
    "place", [(slice(1, 7, 3),), (..., slice(-2, None)), (slice(None), slice(5, 2)), (slice(None), slice(0, 2**62)), (2, slice(1, None))]
)
def test_gradients_of_any_slice_are_right(place: tuple[Any, ...]) -> None:
    value = torch.randn(8, 6, 3, 5, 2, dtype=torch.float64).permute(3, 0, 4, 1, 2).requires_grad_()
    with slices_keep_layout():
        assert torch.autograd.gradcheck(lambda given: given[place] * 2, value)
        assert torch.autograd.gradgradcheck(lambda given: given[place].square(), value)
