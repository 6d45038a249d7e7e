"""Commands on an ONNX file, without a line of Python."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from importers.onnx_files import exported
from torch import nn

from edgeprune.cli import main

HOW = ("--epochs", "1", "--format", "onnx", "--engine", "torchscript", "--no-sensitivity")


@pytest.fixture
def files(tmp_path, monkeypatch):
    """``small.onnx`` and ``samples.npz`` in the working folder."""
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    layers = [nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))
    exported(tmp_path / "small.onnx", model, (torch.randn(1, 3, 16, 16),))
    np.savez(tmp_path / "samples.npz", np.random.default_rng(0).standard_normal((40, 3, 16, 16)).astype(np.float32))
    return tmp_path


def test_inspect_shows_what_of_a_file_can_be_pruned(files, capsys):
    assert main(["inspect", "small.onnx", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [group["units"] for group in document["groups"]] == [16, 16]


def test_a_file_is_pruned_by_its_own_answers_and_exported_under_its_own_names(files, capsys):
    ask = [
        "prune",
        "small.onnx",
        "--samples",
        "samples.npz",
        "--profile",
        "raspberry-pi-4",
        "--macs",
        "60%",
        "--epochs",
        "1",
        "--format",
        "onnx",
    ]
    assert main([*ask, "--json"]) in (0, 3, 4)
    found = json.loads(capsys.readouterr().out)
    made = onnx.load(found["artifacts"]["onnx"])
    assert [one.name for one in made.graph.input] == ["input0"]
    assert [one.name for one in made.graph.output] == ["output"]
    asked = json.loads((files / found["run"] / "run.json").read_text())["inputs"]
    assert asked["source"]["samples"].endswith("samples.npz")
    assert main(["prune", "--resume", found["run"], "--json"]) in (0, 3, 4)
    assert Path(json.loads(capsys.readouterr().out)["checkpoint"]).samefile(found["checkpoint"])
    assert main(["export", found["checkpoint"], "--recipe", "small.onnx", "--format", "pt2", "--json"]) == 0


def test_options_of_model_files_are_refused_with_a_recipe(files, capsys):
    (files / "recipe.py").write_text("")
    assert main(["prune", "recipe.py", "--images", "x", "--profile", "raspberry-pi-4", "--macs", "50%"]) == 2
    assert "--images is for model files" in capsys.readouterr().err
    assert main(["inspect", "small.onnx", "--input", "3xx"]) == 2
    assert "not a shape" in capsys.readouterr().err
    assert main(["inspect", "none.onnx"]) == 1
    assert "does not exist" in capsys.readouterr().err
