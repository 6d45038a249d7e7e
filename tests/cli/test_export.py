"""``edgeprune export``: a pruned checkpoint to files that compute the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from edgeprune.cli import main
from edgeprune.graph import analyze
from edgeprune.surgery import apply, load, plan_from_saliency, save
from edgeprune.task import load_recipe

RECIPE = """
import torch
from torch import nn
from edgeprune.task import Task

def task():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))
    return Task(model.eval(), (torch.zeros(1, 3, 8, 8),))
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.py"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def checkpoint(tmp_path: Path, recipe: Path) -> Path:
    """Half of the 16 channels cut."""
    task = load_recipe(recipe)
    analysis = analyze(task.model, task.example_inputs)
    (group,) = analysis.groups
    saliency = {group.name: torch.arange(16.0).view(1, 16).numpy()}
    pruned = apply(task.model, analysis, plan_from_saliency(analysis, saliency, {group.name: 8}))
    return save(tmp_path / "small.safetensors", pruned, analysis, task.example_inputs)


def test_the_files_lie_beside_the_checkpoint_and_compute_what_it_does(recipe, checkpoint, capsys):
    assert main(["export", str(checkpoint), "--recipe", str(recipe), "--format", "torchscript, pt2"]) == 0
    out = capsys.readouterr().out
    inputs = torch.randn(1, 3, 8, 8)
    expected = load(load_recipe(recipe).model, checkpoint)(inputs)
    (script,) = checkpoint.parent.glob("small*.pt")
    assert torch.allclose(torch.jit.load(script)(inputs), expected, atol=1e-5)
    (program,) = checkpoint.parent.glob("small*.pt2")
    assert torch.allclose(torch.export.load(program).module()(inputs), expected, atol=1e-5)
    assert str(script) in out
    assert str(program) in out


def test_json_and_another_folder(recipe, checkpoint, tmp_path, capsys):
    folder = tmp_path / "files"
    assert main(["export", str(checkpoint), "--recipe", str(recipe), "--format", "pt2", "--output", str(folder), "--json"]) == 0
    written = json.loads(capsys.readouterr().out)["pt2"]
    assert Path(written["path"]).parent == folder
    assert written["size_bytes"] == Path(written["path"]).stat().st_size


@pytest.mark.parametrize(("formats", "said"), [("onyx", "tflite"), (",", "no export format")])
def test_formats_are_checked_before_the_recipe_runs(formats, said, tmp_path, capsys):
    assert main(["export", str(tmp_path / "none"), "--recipe", str(tmp_path / "none.py"), "--format", formats]) == 1
    err = capsys.readouterr().err
    assert said in err
    assert "recipe" not in err


def test_a_missing_checkpoint_and_a_missing_recipe_are_named(checkpoint, recipe, tmp_path, capsys):
    assert main(["export", str(tmp_path / "none.safetensors"), "--recipe", str(recipe)]) == 1
    assert "none.safetensors does not exist" in capsys.readouterr().err
    assert main(["export", str(checkpoint), "--recipe", str(tmp_path / "none.py")]) == 1
    assert "none.py does not exist" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_refused(recipe, checkpoint, capsys):
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    assert main(["export", str(checkpoint), "--recipe", str(recipe), "--format", "pt2"]) == 1
    assert "cannot be read" in capsys.readouterr().err


def test_a_recipe_s_own_model_scored_and_shown(tmp_path, capsys):
    recipe = tmp_path / "own.py"
    data = "data = [(torch.ones(4, 3, 8, 8), torch.zeros(4, dtype=torch.int64))]\n    "
    recipe.write_text(
        RECIPE.replace(
            "    return Task(model.eval(), (torch.zeros(1, 3, 8, 8),))", f"    {data}return Task(model.eval(), (torch.zeros(1, 3, 8, 8),), "
        )
        + 'validation=data, metric=lambda outputs, labels: 7.0, metric_name="luck", labels=list("abcde"), preprocessing={"scale": 255})\n'
    )
    assert main(["export", str(recipe), "--format", "pt2,torchscript", "--score", "--json"]) == 0
    written = json.loads(capsys.readouterr().out)
    for entry in written.values():
        assert (entry["metric"], entry["score"], entry["score_error"], entry["model_score_error"]) == ("luck", 7.0, 0.0, 0.0)
        assert entry["sizes"]["total"] == entry["size_bytes"]
        assert entry["sizes"]["weights"] >= 4 * (16 * 27 + 16 + 80 + 5)
    assert main(["export", "--show", written["pt2"]["path"], "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["metadata"]["labels"] == list("abcde")
    assert shown["metadata"]["preprocessing"] == {"scale": 255}
    assert main(["export", "--show", written["pt2"]["path"]]) == 0
    out = capsys.readouterr().out
    assert "labels: ['a', 'b', 'c', 'd', 'e']" in out
    assert "most weights" in out


def test_a_file_says_how_much_was_pruned_and_what_runtime_it_needs(recipe, checkpoint, dense_model, capsys):
    assert main(["export", str(checkpoint), "--recipe", str(recipe), "--format", "pt2", "--json"]) == 0
    path = json.loads(capsys.readouterr().out)["pt2"]["path"]
    assert main(["export", "--show", path, "--json"]) == 0
    pruned = json.loads(capsys.readouterr().out)["metadata"]["pruned"]
    assert pruned == {"parameters": 8 * 27 + 8 + 8 * 5 + 5, "of": 16 * 27 + 16 + 16 * 5 + 5}
    assert main(["export", "--show", str(dense_model)]) == 0
    assert "needs TensorFlow Lite 1.5 or newer" in capsys.readouterr().out


def test_int8_needs_data_and_a_checkpoint_its_recipe(recipe, checkpoint, tmp_path, capsys):
    assert main(["export", str(recipe), "--format", "tflite-int8"]) == 1
    assert "has no data to calibrate on" in capsys.readouterr().err
    assert main(["export", str(checkpoint)]) == 2
    assert "--recipe" in capsys.readouterr().err
    assert main(["export", "--show", str(tmp_path / "none.tflite")]) == 1
    assert "does not exist" in capsys.readouterr().err


def test_a_task_without_a_score_is_reported_before_anything_is_written(tmp_path, capsys):
    recipe = tmp_path / "own.py"
    recipe.write_text(RECIPE)
    assert main(["export", str(recipe), "--format", "pt2", "--score"]) == 1
    assert "cannot be scored" in capsys.readouterr().err
    assert list(tmp_path.glob("*.pt2")) == []
