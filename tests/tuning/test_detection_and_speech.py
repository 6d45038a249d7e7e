"""Metrics of torchmetrics for detection and for speech, through a task's training and scoring."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgeprune.task import Task
from edgeprune.tuning import finetune, score_with_error

torchmetrics = pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")


class OneBox(nn.Module):
    """Finds one bright square in every image: its scores are the pixels themselves, its box has the square's size."""

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        found = []
        for image in images[:, 0]:
            row, column = divmod(int(image.argmax()), image.shape[1])
            corner = torch.tensor([column, row], dtype=torch.float32)
            found.append({"boxes": torch.cat([corner, corner + 4])[None], "scores": image.max()[None], "labels": torch.zeros(1).long()})
        return found


def squares(count: int, wrong: int) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Images whose brightest pixel is the corner of a square, but of the first ``wrong``, where it is far from it."""
    images, targets = torch.zeros(count, 1, 32, 32), []
    for place in range(count):
        row, column = 3 + place % 10, 5 + place % 7
        corner = torch.tensor([column, row], dtype=torch.float32)
        targets.append({"boxes": torch.cat([corner, corner + 4])[None], "labels": torch.zeros(1).long()})
        images[place, 0, row + (15 if place < wrong else 0), column] = 0.5 if place < wrong else 0.9
    return images, targets


def test_a_detector_has_the_mean_average_precision_of_torchmetrics() -> None:
    pytest.importorskip("pycocotools", reason="torchmetrics' mAP needs pycocotools")
    data = [squares(10, 4), squares(10, 0)]
    metric = torchmetrics.detection.MeanAveragePrecision()
    task = Task(OneBox(), (torch.zeros(1, 1, 32, 32),), validation=data, metric=metric, metric_name="map", name="squares")
    found = score_with_error(task.model, task)
    assert found.value == pytest.approx(0.8, abs=0.01), "16 of 20 squares, and the wrong ones come last"
    assert found.error is not None
    assert 0.02 < found.error < 0.2
    assert found.how == "jackknife, 20 groups of samples"


WORDS = ("low", "middle", "high")
RATE = 2000


def sounds(seed: int) -> list[tuple[Tensor, Tensor]]:
    """Waveforms (samples, 1, time) of four tones in noise, and which word each tone stands for."""
    generator = torch.Generator().manual_seed(seed)
    spoken = torch.randint(0, len(WORDS), (48, 4), generator=generator)
    pitch = torch.tensor([100.0, 300.0, 600.0])[spoken].repeat_interleave(100, 1)
    waves = torch.sin(2 * torch.pi * pitch * torch.arange(400) / RATE) + 0.1 * torch.randn(48, 400, generator=generator)
    return [(waves[at : at + 16, None], spoken[at : at + 16]) for at in (0, 16, 32)]


class Spoken:
    """The word error rate of what the network hears."""

    def __init__(self) -> None:
        self.rate = torchmetrics.text.WordErrorRate()

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        heard, said = ([" ".join(WORDS[word] for word in row) for row in rows.tolist()] for rows in (outputs.argmax(1), targets))
        self.rate.update(heard, said)

    def compute(self) -> Any:
        return self.rate.compute()

    def reset(self) -> None:
        self.rate.reset()


def test_a_network_of_sounds_learns_words_by_their_error_rate() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv1d(1, 16, 25), nn.BatchNorm1d(16), nn.ReLU(), nn.AdaptiveMaxPool1d(4), nn.Conv1d(16, 3, 1))
    task = Task(
        model, (torch.zeros(1, 1, 400),), train=sounds(0), validation=sounds(1), loss=nn.functional.cross_entropy,
        metric=Spoken(), metric_name="word error rate", higher_is_better=False, epochs=12, learning_rate=0.05, name="sounds", device="cpu",
    )  # fmt: skip
    before = score_with_error(model, task)
    assert 0.4 < before.value < 1.0, "untrained it guesses among three words"
    result = finetune(model, task)
    assert result.score is not None
    assert result.score < 0.2 < before.value
    assert before.error is not None
    assert before.error > 0.005
