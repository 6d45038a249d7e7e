"""``edgeprune prune`` for a microcontroller: arena and file measured under the budget, latency predicted, accuracy of the int8 file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgeprune.budget import Budget
from edgeprune.cli import main
from edgeprune.export import ExportOptions, export
from edgeprune.export.evaluate import score_file
from edgeprune.micro import measure_arena, read_graph
from edgeprune.profile import load
from edgeprune.runs.directory import RunDirectory
from edgeprune.search import Options, prune
from edgeprune.search.measure.micro import MicroBackend
from edgeprune.task import load_recipe

pytest.importorskip("tflite_micro")

RECIPE = """
import torch
from torch import nn
import edgeprune

def network():
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 32, (1, 5), padding=(0, 2)), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 48, (1, 5), padding=(0, 2)), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 3))

def task():
    generator = torch.Generator().manual_seed(1)
    signals, labels = torch.randn(96, 2, 1, 40, generator=generator), torch.arange(96) % 3
    signals += labels.view(-1, 1, 1, 1)
    batches = [(signals[i : i + 32], labels[i : i + 32]) for i in range(0, 96, 32)]
    return edgeprune.Task(network(), (torch.zeros(1, 2, 1, 40),), train=batches, validation=batches, epochs=2, distillation=0.0)
"""
DENSE_ARENA = 40 * (32 + 48)
"""Bytes of activations alive at once in the second convolution of the dense model."""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "net.py"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def pruned(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the command line tells of one run."""
    budget, options = Budget(memory="5kB", size="9kB"), Options(sensitivity=False)
    runs = tmp_path_factory.mktemp("runs")
    result = prune(load_recipe(recipe), profile="nrf5340", budget=budget, options=options, runs=runs, recipe=str(recipe))
    told = result.summary | {"run": result.run, "artifacts": result.artifacts, "met": result.met}
    found: dict[str, Any] = json.loads(json.dumps(told, default=str))
    return found


def test_the_file_that_is_shipped_is_measured_under_the_budget(pruned: dict[str, Any]) -> None:
    content = Path(pruned["artifacts"]["tflite-int8"]).read_bytes()
    arena = measure_arena(content)
    assert pruned["met"] is True
    assert arena.needed_bytes == pruned["pruned"]["peak_bytes"] <= 5000
    assert len(content) == pruned["pruned"]["file_bytes"] <= 9000
    assert pruned["dense"]["peak_bytes"] > max(DENSE_ARENA, 5000)
    assert pruned["pruned"]["peak_bytes"] > 0.8 * 5000 or pruned["pruned"]["file_bytes"] > 0.8 * 9000  # no more is cut than need be
    assert {tensor.dtype for tensor in (*read_graph(content, "").inputs, *read_graph(content, "").outputs)} == {"int8"}


def test_accuracy_is_that_of_the_int8_file(pruned: dict[str, Any], recipe: Path) -> None:
    assert pruned["pruned"]["metric"] == pytest.approx(score_file(pruned["artifacts"]["tflite-int8"], load_recipe(recipe)))
    assert pruned["pruned"]["metric"] > 60.0


def test_what_is_measured_and_what_is_predicted_is_said(pruned: dict[str, Any]) -> None:
    report = Path(pruned["run"], "report.html").read_text()
    for text in (report, json.dumps(pruned)):
        assert "arena measured with tflite-micro" in text
        assert "predicted from microTVM, MLPerf Tiny v1.0, int8" in text
    assert pruned["measured"] is False
    assert pruned["ratio"] is None
    assert pruned["pruned"]["energy_mj"] is None  # nothing is known of its power
    assert 0 < pruned["pruned"]["latency_ms"] < pruned["dense"]["latency_ms"]
    assert pruned["device"]["profile"] == "nrf5340"
    assert "Every budget is met, as measured" in report


def test_the_c_array_is_the_file(pruned: dict[str, Any], tmp_path: Path) -> None:
    source = Path(pruned["artifacts"]["c-array"])
    content = Path(pruned["artifacts"]["tflite-int8"]).read_bytes()
    assert f"#define MODEL_ARENA_BYTES {pruned['pruned']['peak_bytes']}\n" in source.with_suffix(".h").read_text()
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    (tmp_path / "main.c").write_text(
        '#include <stdio.h>\n#include "model.h"\nint main(void) { return !fwrite(model_data, MODEL_SIZE_BYTES, 1, stdout); }\n'
    )
    subprocess.run(["gcc", "-std=c11", f"-I{source.parent}", str(source), "main.c", "-o", "main"], cwd=tmp_path, check=True)
    assert subprocess.run(["./main"], cwd=tmp_path, capture_output=True, check=True).stdout == content


def test_a_run_that_is_resumed_measures_nothing_again(pruned: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    kept = Path(pruned["run"], "measurements.jsonl")
    before = kept.read_text()
    assert main(["prune", "--resume", pruned["run"], "--json"]) == 0
    assert kept.read_text() == before
    assert json.loads(capsys.readouterr().out)["pruned"] == pruned["pruned"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--profile", "esp32-s3", "--latency", "5ms"], "has no published latency"),
        (["--profile", "nrf5340", "--energy", "1mJ"], "has no published energy"),
        (["--profile", "nrf5340", "--memory", "24KB", "--target", "local:"], "nrf5340 is a microcontroller"),
        (["--profile", "nrf5340", "--memory", "24KB", "--engine", "torchscript"], "nrf5340 runs tflite-int8, not torchscript"),
    ],
)
def test_what_cannot_be_judged_is_refused(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.setattr("edgeprune.search.run.warm", lambda: None)
    assert main(["prune", str(recipe), *arguments, "--runs", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err.replace("\n", " ")


def test_a_budget_below_the_least_names_what_binds(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--profile", "esp32-s3", "--memory", "1kB", "--no-sensitivity", "--schedule", "one-shot"]
    assert main(["prune", str(recipe), *options, "--runs", str(tmp_path)]) == 5
    assert "binding: memory" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.soak
def test_the_wearable(tmp_path: Path) -> None:
    if "EDGEPRUNE_DATA" not in os.environ:
        pytest.skip("EDGEPRUNE_DATA is not set")
    recipe = Path(__file__).parents[2] / "recipes" / "har.py"
    command = [sys.executable, "-m", "edgeprune", "prune", str(recipe), "--profile", "nrf5340", "--memory", "24KB", "--size", "60KB"]
    done = subprocess.run([*command, "--runs", str(tmp_path), "--json"], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    content = Path(found["artifacts"]["tflite-int8"]).read_bytes()
    assert measure_arena(content).needed_bytes == found["pruned"]["peak_bytes"] <= 24_000
    assert len(content) <= 60_000
    assert found["pruned"]["metric"] >= found["dense"]["metric"] - 3.0


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(20, 8), nn.Linear(8, 3)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.head(self.table(words).mean(1))
        return scores


def test_outputs_of_a_model_of_tokens_are_compared_on_tokens_that_it_knows(tmp_path: Path) -> None:
    torch.manual_seed(0)
    examples = (torch.randint(0, 20, (1, 6)),)
    calibration = [(torch.randint(0, 20, (1, 6)),) for _ in range(16)]
    options = ExportOptions(integer_io=True)
    path = export(Tokens(), examples, ["tflite-int8"], tmp_path, calibration=calibration, options=options)["tflite-int8"]
    run = RunDirectory(tmp_path / "run")
    try:
        MicroBackend(run, load("nrf5340")).check_outputs(path, examples, lambda: [], 0.0)
    finally:
        run.close()
