"""Pruning in several precisions: the best exported file that meets the budgets is kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import edgeprune
from edgeprune.errors import InputError
from edgeprune.export import formats
from edgeprune.export.evaluate import score_file
from edgeprune.release.build.evidence import from_run
from edgeprune.runs.finished import read_run
from edgeprune.search import Options, prune
from edgeprune.search.choice import Outcome
from edgeprune.search.plan.metrics import ModelMetrics


def small_task() -> edgeprune.Task:
    """Four classes told apart by the mean of an image."""
    torch.manual_seed(0)
    convs = [nn.Conv2d(3, 48, 3, padding=1), nn.ReLU(), nn.Conv2d(48, 64, 3, padding=1), nn.ReLU()]
    model = nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 4))
    images, labels = torch.randn(96, 3, 16, 16), torch.arange(96) % 4
    images += labels.view(-1, 1, 1, 1)
    batches = list(zip(images.split(32), labels.split(32), strict=True))
    return edgeprune.Task(model, (torch.zeros(1, 3, 16, 16),), train=batches, validation=batches, epochs=1, distillation=0.0)


def test_precisions_are_known_and_named_once():
    with pytest.raises(InputError, match=r"unknown precision 'int4'\nKnown precisions: fp32, fp16, dynamic, int8"):
        Options(precision=("int8", "int4"))
    with pytest.raises(InputError, match="each only once"):
        Options(precision=("int8", "int8"))
    with pytest.raises(InputError, match="at least one"):
        Options(precision=())


def test_a_precision_that_nothing_can_measure_is_refused(tmp_path: Path):
    options = Options(engine="torchscript", formats=("torchscript",), precision=("int8",))
    with pytest.raises(InputError, match="the precision int8 needs a device that runs tflite"):
        prune(small_task(), profile="raspberry-pi-4", budget=edgeprune.Budget(latency="60%"), options=options, runs=tmp_path)
    with pytest.raises(InputError, match=r"a microcontroller's models are int8 anyway"):
        prune(small_task(), profile="nrf5340", budget=edgeprune.Budget(size="60%"), options=Options(precision=("int8",)), runs=tmp_path)
    with pytest.raises(InputError, match="needs a device that runs tflite"):
        prune(small_task(), target="local:", budget=edgeprune.Budget(latency="60%"), options=options, runs=tmp_path)
    assert list(tmp_path.iterdir()) == []  # before anything is exported or measured


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((9.0, 91.0), (11.0, 95.0)),  # a budget that is missed weighs more than accuracy
        ((9.0, 93.0), (5.0, 92.9)),  # of those that meet it the more accurate
        ((5.0, 93.0), (9.0, 93.0)),  # of the equally accurate the faster
        ((11.0, 93.0), (12.0, 92.0)),  # of those that miss it the more accurate
    ],
)
def test_what_is_better(first: tuple[float, float], second: tuple[float, float]):
    def outcome(latency_ms: float, score: float, task: edgeprune.Task) -> Outcome:
        cut = SimpleNamespace(metrics=ModelMetrics(latency_ms, None, 1.0, 1.0, 1.0, 1.0))
        return Outcome("int8", SimpleNamespace(limits={"latency": 10.0}, task=task), cut, score)  # type: ignore[arg-type]

    task, error = small_task(), replace(small_task(), metric_name="error", higher_is_better=False)
    assert outcome(*first, task).rank > outcome(*second, task).rank
    of_errors = [(latency_ms, 100.0 - score) for latency_ms, score in (first, second)]
    assert outcome(*of_errors[0], error).rank > outcome(*of_errors[1], error).rank


@pytest.mark.device  # two precisions are exported, tuned and measured
@pytest.mark.usefixtures("few_rounds")
@pytest.mark.parametrize("workers", [None, pytest.param(2, marks=pytest.mark.soak)])
def test_both_precisions_are_measured_and_the_better_file_is_delivered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int | None
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    asked = {"formats": ("tflite",), "threads": 1, "measurements": 3, "sensitivity": False}
    task, options = small_task(), Options(precision=("int8", "fp32"), workers=workers, **asked)  # type: ignore[arg-type]
    result = prune(task, "local:", budget=edgeprune.Budget(latency="60%"), options=options, runs=tmp_path / "runs")
    summary, run = result.summary, result.run
    assert result.met
    kept = summary["precision"]
    name = {"int8": "tflite-int8", "fp32": "tflite"}[kept]
    path = result.artifacts[name]
    assert path.parent == run / "artifacts"
    assert {item.name for item in path.parent.glob("pruned.*")} == {item.name for item in result.artifacts.values()}
    assert formats.of_path(path).name == name
    assert summary["pruned"]["metric"] == pytest.approx(score_file(path, task))
    scores = {
        entry["key"]: entry["value"]["metric"]
        for lines in (run / "measurements.jsonl", run / "int8" / "measurements.jsonl")
        for entry in map(json.loads, lines.read_text().splitlines())
        if entry["key"].startswith("score-final-")
    }
    assert len(scores) == 2
    assert summary["pruned"]["metric"] == max(scores.values())
    finished = read_run(run)
    found = from_run(finished, next(item for item in finished.exported if item.format == name))
    assert found is not None  # what a release carries
    assert found.measurement.latency_ms == summary["pruned"]["latency_ms"]
    model = edgeprune.load(small_task().model, result.checkpoint)
    assert sum(value.numel() for value in model.parameters()) == pytest.approx(summary["pruned"]["parameters"])
