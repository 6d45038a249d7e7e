"""The main job against the virtual board: its table, its measurements and its artifact are of aarch64."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from board.machine import MODEL, Board
from torch import nn

import edgeprune
from edgeprune.bench import BenchOptions
from edgeprune.search import Options, prune
from edgeprune.task import load_recipe

DIGITS = Path(__file__).parents[2] / "recipes/digits.py"


def small_task() -> edgeprune.Task:
    """One convolution has nearly all of the work: the table has few kernels."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 4)).eval()
    images, labels = torch.randn(32, 3, 16, 16), torch.arange(32) % 4
    return edgeprune.Task(model, (torch.zeros(1, 3, 16, 16),), train=[(images, labels)], validation=[(images, labels)], epochs=1)


@pytest.mark.parametrize("digits", [False, pytest.param(True, marks=pytest.mark.soak)], ids=["small", "digits"])
def test_a_model_is_pruned_to_half_its_time_on_the_board(
    digits: bool, ready: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Emulated times are no latencies, but their ratios are of the work done.  Few rounds: each starts an emulated Python again."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # the table is measured, not remembered
    rounds, tries, most = (3, 3, 0.55) if digits else (2, 2, 0.7)
    monkeypatch.setattr("edgeprune.search.measure.opening.BenchOptions", partial(BenchOptions, rounds=rounds, warmup_s=0.2, max_time_s=3.0))
    options = Options(formats=("tflite", "pt2"), sensitivity=False, epochs=0.5, step=32, threads=1, measurements=tries)
    task = load_recipe(DIGITS) if digits else small_task()
    result = prune(task, "ssh://board", budget=edgeprune.Budget(latency="50%"), options=options, runs=tmp_path / "runs")

    ratio = result.summary["ratio"]["value"]
    assert result.summary["measured"] is True
    assert ratio <= most  # few rounds under emulation repeat to some percent, two less well
    assert ratio <= 0.50 or not result.met
    assert result.artifacts["pt2"].is_file()  # exported here while the board measured
    assert 0 < result.summary["seconds"]["export"] < result.summary["seconds"]["total"]
    (run,) = (tmp_path / "runs").iterdir()
    assert MODEL in (run / "measurements.jsonl").read_text()
    assert len(json.loads((run / "table.json").read_text())) > 0
    assert list((tmp_path / "cache/edgeprune/tables").glob("raspberry-pi-4-*-aarch64-*-ai-edge-litert-*.json"))
    assert ready.processes() == []
