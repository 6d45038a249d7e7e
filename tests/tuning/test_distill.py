"""Distillation of every kind of output, and of features."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeprune import Task, analyze
from edgeprune.errors import RecipeError
from edgeprune.importance import score as saliency_of
from edgeprune.surgery import apply, plan_from_saliency
from edgeprune.tuning import finetune
from edgeprune.tuning.distill import distillation_loss, feature_distance

KEEP = {"reduction": "none", "log_target": True}


def divergence(student: Tensor, teacher: Tensor, axis: int, temperature: float = 4.0) -> Tensor:
    """Of every position, times the temperature's square."""
    soft = [functional.log_softmax(value / temperature, axis) for value in (student, teacher)]
    return functional.kl_div(*soft, **KEEP).sum(axis) * temperature**2  # type: ignore[arg-type]


def pair(*shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


def close(found: Tensor | None, expected: Tensor) -> None:
    assert found is not None
    torch.testing.assert_close(found, expected)


def test_scores_of_samples_and_their_temperature() -> None:
    student, teacher = pair(6, 5)
    targets = torch.arange(6) % 5
    close(distillation_loss(student, teacher, targets), divergence(student, teacher, 1).mean())
    close(distillation_loss(student, teacher, targets, temperature=1.0), divergence(student, teacher, 1, 1.0).mean())


def test_scores_of_pixels_leave_out_those_without_a_target() -> None:
    student, teacher = pair(2, 3, 4, 4)
    targets = torch.zeros(2, 4, 4, dtype=torch.int64)
    targets[:, 2:] = 255
    close(distillation_loss(student, teacher, targets, ignore_index=255), divergence(student, teacher, 1)[:, :2].mean())


@pytest.mark.parametrize("structured", [False, True])
def test_scores_of_tokens_are_softened_over_classes_and_not_over_tokens(structured: bool) -> None:
    student, teacher = pair(2, 6, 3)
    targets = torch.zeros(2, 6, dtype=torch.int64)
    targets[:, 4:] = -100
    mask = torch.ones(2, 6, dtype=torch.int64)
    mask[:, 3] = 0
    given: tuple[Any, Any] = ({"logits": student}, {"logits": teacher}) if structured else (student, teacher)
    close(distillation_loss(*given, targets), divergence(student, teacher, 2)[:, :4].mean())
    close(distillation_loss(*given, targets, mask=mask), divergence(student, teacher, 2)[:, :3].mean())


def test_a_detectors_boxes_and_scores_are_compared_each_in_its_way() -> None:
    boxes, scores = pair(2, 7, 4), pair(2, 7, 3)
    student = {"pred_boxes": boxes[0], "class_logits": scores[0], "loss": torch.tensor(1.0)}
    teacher = {"pred_boxes": boxes[1], "class_logits": scores[1]}
    expected = (functional.smooth_l1_loss(*boxes) + divergence(*scores, 2).mean()) / 2
    close(distillation_loss(student, teacher, None), expected)


def test_real_outputs_have_the_squared_error_and_the_first_of_a_shape_counts() -> None:
    student, teacher = pair(4, 1)
    close(distillation_loss(student, teacher, torch.zeros(4, 1)), functional.mse_loss(student, teacher))
    close(distillation_loss((student, teacher), teacher, torch.zeros(4, 1)), functional.mse_loss(student, teacher))
    assert distillation_loss(student[:2], teacher, None) is None


def test_an_autoencoders_outputs_are_no_scores_though_its_samples_have_labels() -> None:
    student, teacher = pair(6, 5)
    labels = torch.arange(6) % 2
    close(distillation_loss(student, teacher, (torch.zeros(6, 5), labels)), functional.mse_loss(student, teacher))
    close(distillation_loss(student, teacher, (torch.zeros(6, 2), labels)), divergence(student, teacher, 1).mean())


def test_features_of_fewer_channels_are_compared_after_the_best_linear_map() -> None:
    torch.manual_seed(0)
    whole = torch.randn(8, 4, 5, 5)
    teacher = torch.cat([whole, whole @ torch.ones(5, 5)], 1)  # six to eight channels that the first four do not all tell
    mixed = torch.einsum("oc,nchw->nohw", torch.randn(8, 4), whole)
    assert float(feature_distance(whole, mixed)) < 1e-4  # every channel is a mix of the four that are left
    assert float(feature_distance(whole, teacher)) > 0.01
    assert float(feature_distance(mixed, mixed)) == 0.0
    assert float(feature_distance(torch.zeros_like(whole), whole)) == pytest.approx(1.0)


def test_features_of_other_positions_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"features of the pruned model are \(2, 3, 4, 4\) and of the dense one \(2, 3, 2, 2\)"):
        feature_distance(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 2, 2))


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.body(self.stem(x)).mean((2, 3)))
        return scores


def task(**settings: Any) -> Task:
    torch.manual_seed(0)
    data = [(torch.randn(16, 1, 8, 8), torch.randint(0, 3, (16,))) for _ in range(4)]
    return Task(Network().eval(), (torch.zeros(1, 1, 8, 8),), data, **({"epochs": 6, "distillation": 1.0, "name": "features"} | settings))


def test_a_pruned_model_learns_the_features_that_are_asked_for() -> None:
    distances = {}
    for names in ((), ("stem", "body")):
        job = task(distil_features=names)
        analysis = analyze(job.model, job.example_inputs)
        plan = plan_from_saliency(analysis, saliency_of(job, analysis, "l2"), {group.name: 8 for group in analysis.groups})
        pruned = apply(job.model, analysis, plan, "modules").model
        assert finetune(pruned, job, teacher=job.model).steps == 24
        with torch.no_grad():
            images = torch.cat([images for images, _ in job.train])  # type: ignore[union-attr]
            distances[names] = float(feature_distance(pruned.body(pruned.stem(images)), job.model.body(job.model.stem(images))))  # type: ignore[operator]
        assert not pruned.body._forward_hooks
    assert distances["stem", "body"] < distances[()]


def test_a_resumed_training_with_features_ends_with_the_same_weights(tmp_path: Any) -> None:
    whole, parts = task(distil_features=["body"]), task(distil_features=["body"])
    finetune(whole.model, whole, teacher=task().model, checkpoint=tmp_path / "whole")
    calls = 0

    def stop(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(parts.model, parts, teacher=task().model, checkpoint=tmp_path / "parts", on_progress=stop)
    again = task(distil_features=["body"])
    finetune(again.model, again, teacher=task().model, checkpoint=tmp_path / "parts")
    for one, other in zip(whole.model.state_dict().values(), again.model.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"distil_features": ["layer9"]}, r"task\.distil_features names layer9, and the model has no such module"),
        ({"distil_features": "body"}, r"task\.distil_features is the text 'body'"),
        ({"temperature": 0.0}, r"task\.temperature is 0\.0, not greater than zero"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        task(**settings)
