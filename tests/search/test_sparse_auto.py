"""A latency met by sparse weights, fewer channels or both, on this machine: whatever it chooses is measured to meet the budget."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from edgeprune.cli import main
from edgeprune.surgery import load, outputs_of

RECIPE = """
import torch
from torch import nn
from edgeprune import Task

def task():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 256, 1), nn.ReLU(), nn.Conv2d(256, 64, 1), nn.ReLU(), nn.Conv2d(64, 256, 1),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 4),
    )
    data = [(torch.randn(8, 3, 64, 64), torch.arange(8) % 4) for _ in range(4)]
    return Task(model.eval(), (torch.zeros(1, 3, 64, 64),), train=data, validation=data, epochs=1)
"""


@pytest.mark.soak
def test_a_latency_is_met_and_an_interrupted_run_is_not_repeated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "small.py"
    recipe.write_text(RECIPE)
    command = ["sparsify", str(recipe), "--sparsity", "auto", "--target", "local:", "--latency", "60%", "--threads", "1"]
    command += ["--output", str(tmp_path / "run"), "--json"]
    assert main(command) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["met"] is True
    assert first["latency"]["ratio"] <= 0.6
    assert first["kind"] in ("channel", "sparse", "both")
    assert (first["kind"] == "channel") == (first["check"] is None)
    lines = (tmp_path / "run/measurements.jsonl").read_text()
    assert main(command) == 0
    again = json.loads(capsys.readouterr().out)
    assert again == first
    assert (tmp_path / "run/measurements.jsonl").read_text() == lines
    space: dict[str, object] = {}
    exec(RECIPE, space)
    model = load(space["task"]().model, first["checkpoint"])  # type: ignore[operator]
    assert outputs_of(model, (torch.zeros(1, 3, 64, 64),))[0].shape == (1, 4)
