"""The task's metric, computed with an exported file."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgeprune.errors import ExportError
from edgeprune.export import ExportOptions, export
from edgeprune.export.evaluate import score_file
from edgeprune.task import Task
from edgeprune.tuning import score


class Brightest(nn.Module):
    """Scores of the three channels of an image, by its mean colour; the output is nested."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(3, 3, 1)
        with torch.no_grad():
            self.mix.weight.copy_(torch.eye(3)[:, :, None, None])
            self.mix.bias.zero_()

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"scores": self.mix(x).mean((2, 3))}


@pytest.fixture(scope="module")
def task() -> Task:
    """96 images in batches of 32, a quarter of which are labelled wrongly: 75 % is right."""
    torch.manual_seed(0)
    images = torch.randn(96, 3, 6, 6) + 3.0 * nn.functional.one_hot(torch.arange(96) % 3, 3)[:, :, None, None]
    labels = torch.arange(96) % 3
    labels[::4] = (labels[::4] + 1) % 3
    batches = list(zip(images.split(32), labels.split(32), strict=True))
    return Task(
        Brightest(),
        (torch.zeros(1, 3, 6, 6),),
        train=batches,
        validation=batches,
        metric=lambda outputs, labels: 100.0 * (outputs["scores"].argmax(1) == labels).float().mean().item(),
    )


@pytest.fixture(scope="module")
def files(task, tmp_path_factory):
    samples = [(image[None],) for images, _ in task.train for image in images][:32]
    options = ExportOptions(channels_last=True, integer_io=True)
    return export(
        task.model,
        task.example_inputs,
        ("tflite", "tflite-int8", "torchscript", "pt2"),
        tmp_path_factory.mktemp("files"),
        calibration=samples,
        options=options,
    )


def test_every_file_scores_what_the_model_does(task, files):
    assert score(task.model, task) == pytest.approx(75.0)
    for name, path in files.items():
        assert score_file(path, task) == pytest.approx(75.0, abs=1.1), name  # one image of 96 may tip


def test_a_task_with_its_own_evaluation(task, files):
    seen = []

    def evaluate(model: nn.Module) -> float:
        seen.append(tuple(model(torch.ones(5, 3, 6, 6))["scores"].shape))
        return 42.0

    own = Task(task.model, task.example_inputs, evaluate=evaluate)
    assert score_file(files["tflite-int8"], own, "tflite-int8") == 42.0
    assert seen == [(5, 3)]


def test_the_file_is_scored_and_not_the_model(task, files):
    wrong = Brightest()
    with torch.no_grad():
        wrong.mix.weight.neg_()
    other = Task(wrong, task.example_inputs, validation=task.validation, metric=task.metric)
    assert score(wrong, other) < 40.0
    assert score_file(files["torchscript"], other) == pytest.approx(75.0)


def test_files_that_cannot_be_scored(task, tmp_path):
    with pytest.raises(ExportError, match="does not exist"):
        score_file(tmp_path / "none.tflite", task)
    (tmp_path / "bad.tflite").write_bytes(b"no model at all")
    with pytest.raises(ExportError, match="not a TFLite model"):
        score_file(tmp_path / "bad.tflite", task)
    (tmp_path / "bad.pt").write_bytes(b"no archive")
    with pytest.raises(ExportError, match="cannot be loaded as torchscript"):
        score_file(tmp_path / "bad.pt", task)
    with pytest.raises(ExportError, match=r"of an unknown kind\nKnown suffixes: .*tflite"):
        score_file(tmp_path / "model.h5", task)
