"""The main job against the virtual board: its table, its measurements and its artifact are of aarch64."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
from board.machine import MODEL, Board

import edgeprune
from edgeprune.bench import BenchOptions
from edgeprune.search import Options, prune
from edgeprune.task import load_recipe

DIGITS = Path(__file__).parents[2] / "recipes/digits.py"


def test_a_recipe_is_pruned_to_half_its_time_on_the_board(ready: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Emulated times are no latencies, but their ratios are of the work done.  Few rounds: each starts an emulated Python anew."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # the table is measured, not remembered
    monkeypatch.setattr("edgeprune.search.job.BenchOptions", partial(BenchOptions, rounds=3, warmup_s=0.2, max_time_s=3.0))
    options = Options(formats=("tflite", "pt2"), sensitivity=False, epochs=0.5, step=32, threads=1, measurements=3)
    result = prune(load_recipe(DIGITS), "ssh://board", budget=edgeprune.Budget(latency="50%"), options=options, runs=tmp_path / "runs")

    ratio = result.summary["ratio"]["value"]
    assert result.summary["measured"] is True
    assert ratio <= 0.55  # three rounds under emulation repeat to a few percent
    assert result.met == (ratio <= 0.50)
    assert result.artifacts["pt2"].is_file()  # exported here while the board measured
    assert 0 < result.summary["seconds"]["export"] < result.summary["seconds"]["total"]
    (run,) = (tmp_path / "runs").iterdir()
    assert MODEL in (run / "measurements.jsonl").read_text()
    assert len(json.loads((run / "table.json").read_text())) > 0
    assert list((tmp_path / "cache/edgeprune/tables").glob("raspberry-pi-4-*-aarch64-*-ai-edge-litert-*.json"))
    assert ready.processes() == []
