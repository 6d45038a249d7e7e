"""The main job from end to end on this machine, small: TorchScript, which needs no converter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import edgeprune
from edgeprune.cli import main
from edgeprune.errors import RunError, TargetError
from edgeprune.search import Options, prune
from edgeprune.task import load_recipe

RECIPE = """
import os
import torch
from torch import nn
import edgeprune

def network():
    torch.manual_seed(0)
    convs = [nn.Conv2d(3, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 96, 3, padding=1), nn.BatchNorm2d(96), nn.ReLU()]
    return nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 4))

def task():
    generator = torch.Generator().manual_seed(1)
    images, labels = torch.randn(128, 3, 16, 16, generator=generator), torch.arange(128) % 4
    images += labels.view(-1, 1, 1, 1)
    batches = [(images[i : i + 32], labels[i : i + 32]) for i in range(0, 128, 32)]
    scale = float(os.environ.get("TEST_LOSS_SCALE", "1"))
    loss = lambda outputs, targets: scale * nn.functional.cross_entropy(outputs, targets)
    return edgeprune.Task(network(), (torch.zeros(1, 3, 16, 16),), train=batches, validation=batches, loss=loss, epochs=2, distillation=0.0)
"""
OPTIONS = Options(engine="torchscript", formats=("torchscript",), threads=1, measurements=4)


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("edgeprune.search.run.warm", lambda: None)
    path = tmp_path / "recipe.py"
    path.write_text(RECIPE)
    return path


def run_job(recipe: Path, tmp_path: Path, **more: Any) -> edgeprune.Result:
    budget = edgeprune.Budget(latency="60%", size="80%")
    return prune(load_recipe(recipe), "local:", budget=budget, options=OPTIONS, runs=tmp_path / "runs", **more)


@pytest.mark.soak  # every round of a comparison starts PyTorch again; tests/search/test_search_device.py resumes on a played device
@pytest.mark.usefixtures("few_rounds")
def test_prune_measures_meets_and_resumes(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr("edgeprune.search.candidate.finetune", lambda *args, **named: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt) as raised:
            run_job(recipe, tmp_path)
    (folder,) = (tmp_path / "runs").iterdir()
    assert f"edgeprune.prune(..., resume={str(folder)!r})" in raised.value.__notes__[0]  # it was not started from a recipe file
    before = (folder / "measurements.jsonl").read_text()

    result = run_job(recipe, tmp_path, resume=folder)
    after = (folder / "measurements.jsonl").read_text()
    keys = [json.loads(line)["key"] for line in after.splitlines()]
    assert after.startswith(before)
    assert len(keys) == len(set(keys))  # nothing was measured twice
    assert sum(key.startswith(("candidate", "final", "dense")) for key in keys) <= 10

    summary = result.summary
    assert result.met
    assert summary["ratio"]["value"] <= 0.60
    assert summary["pruned"]["file_bytes"] <= 0.80 * summary["dense"]["file_bytes"]
    assert summary["pruned"]["file_bytes"] == result.artifacts["torchscript"].stat().st_size
    assert (folder / "report.html").read_text().count("measured") > 1
    assert json.loads((folder / "run.json").read_text())["state"] == "done"
    loaded = edgeprune.load(load_recipe(recipe).model, result.checkpoint)
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(loaded(x), result.model.eval()(x))

    with pytest.raises(RunError, match="other settings"):
        prune(load_recipe(recipe), "local:", budget=edgeprune.Budget(latency="10%"), options=OPTIONS, resume=folder)


def cli(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main([*arguments])
    out, err = capsys.readouterr()
    return code, out, err


class Tokens(torch.nn.Module):
    """Classifies sentences of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.hidden, self.head = torch.nn.Embedding(50, 16), torch.nn.Linear(16, 64), torch.nn.Linear(64, 4)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.hidden(self.embedding(tokens).mean(1))))


@pytest.mark.device
@pytest.mark.usefixtures("few_rounds")
def test_tokens_of_64_bits_are_those_of_32_that_tflite_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    torch.manual_seed(0)
    task = edgeprune.Task(Tokens().eval(), (torch.randint(0, 50, (1, 12)),))
    options = Options(engine="tflite", formats=("tflite",), threads=1, measurements=1)
    assert prune(task, "local:", budget=edgeprune.Budget(macs="60%"), options=options, runs=tmp_path / "runs").met


def test_without_a_device_everything_is_a_prediction(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--engine", "torchscript", "--format", "torchscript", "--runs", str(tmp_path / "runs"), "--no-sensitivity", "--json"]
    code, out, _ = cli(capsys, "prune", str(recipe), "--profile", "raspberry-pi-4", "--latency", "60%", "--epochs", "0.5", *options)
    summary = json.loads(out)
    assert code == 0
    assert summary["measured"] is False
    assert summary["device"]["profile"] == "raspberry-pi-4"
    assert summary["pruned"]["latency_ms"] <= 0.6 * summary["dense"]["latency_ms"]
    assert "not measured" in Path(summary["run"], "report.html").read_text()


def test_a_dry_run_prunes_nothing(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--engine", "torchscript", "--runs", str(tmp_path / "runs"), "--no-sensitivity", "--dry-run"]
    code, out, _ = cli(capsys, "prune", str(recipe), "--profile", "raspberry-pi-4", "--latency", "60%", "--json", *options)
    plan = json.loads(out)
    assert code == 0
    assert plan["predicted"]["latency_ms"] <= plan["limits"]["latency"]
    assert {group["name"] for group in plan["groups"]} == {"0", "3"}
    assert not (tmp_path / "runs").exists()
    code, out, _ = cli(capsys, "prune", str(recipe), "--profile", "raspberry-pi-4", "--latency", "60%", *options)
    assert "Predicted, not measured" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "local:", "--latency", "15"], "has no unit"),
        (["--target", "local:"], "no budget was given"),
        (["--latency", "50%"], "neither --target nor --profile"),
        (["--profile", "raspberry-pi-9", "--latency", "50%"], "raspberry-pi-4"),
        (["--target", "nowhere", "--latency", "50%"], "nowhere"),
        (["--profile", "raspberry-pi-4", "--latency", "1ns", "--engine", "torchscript", "--no-sensitivity"], "binding: latency"),
        (
            ["--profile", "raspberry-pi-4", "--latency", "50%", "--engine", "torchscript", "--criterion", "magic", "--no-sensitivity"],
            "Known criteria",
        ),
    ],
)
def test_bad_input_is_one_clear_message(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    code, out, err = cli(capsys, "prune", str(recipe), *arguments, "--runs", str(tmp_path / "runs"))
    assert code != 0
    assert out == ""
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize(("arguments", "starts"), [([], 1), (["--engine", "torchscript", "--format", "torchscript"], 0)])
def test_the_converter_starts_before_the_recipe_runs_where_it_is_needed(
    arguments: list[str], starts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[None] = []
    monkeypatch.setattr("edgeprune.search.run.warm", lambda: started.append(None))
    path = tmp_path / "bad.py"
    path.write_text("raise ValueError")
    for recipe in (path, tmp_path / "absent.py"):
        assert main(["prune", str(recipe), "--profile", "raspberry-pi-4", "--latency", "50%", *arguments]) == 1
        assert len(started) == starts


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "does not exist"),
        ("def task(): raise RuntimeError('no data today')", "no data today"),
        ("x = 1", "no function task()"),
        ("def task(): return 3", "returned a int"),
        (RECIPE.replace("torch.zeros(1, 3, 16, 16)", "torch.zeros(1, 5, 16, 16)"), "(1, 5, 16, 16)"),
    ],
)
def test_bad_recipes_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, text: str | None, message: str
) -> None:
    monkeypatch.setattr("edgeprune.search.run.warm", lambda: None)
    path = tmp_path / "bad.py"
    if text is not None:
        path.write_text(text)
    code, _, err = cli(capsys, "prune", str(path), "--profile", "raspberry-pi-4", "--latency", "50%", "--runs", str(tmp_path / "runs"))
    assert code == 1
    assert message in err
    assert "bad" in err


def test_a_loss_that_is_not_a_number_is_said_and_the_run_kept(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_LOSS_SCALE", "nan")
    options = ["--engine", "torchscript", "--runs", str(tmp_path / "runs"), "--no-sensitivity"]
    code, _, err = cli(capsys, "prune", str(recipe), "--profile", "raspberry-pi-4", "--latency", "60%", *options)
    assert code == 1
    assert "loss of the dense model is nan" in err
    assert "--resume" not in err, "it would be NaN again"
    (kept,) = (tmp_path / "runs").iterdir()
    assert str(kept) in " ".join(err.split())


def test_neither_target_nor_profile_is_an_error_from_python(recipe: Path) -> None:
    with pytest.raises(TargetError):
        prune(load_recipe(recipe), budget=edgeprune.Budget(latency="50%"))


def test_importing_edgeprune_is_light() -> None:
    code = "import sys, edgeprune; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ), check=True)
    assert done.stdout.strip() == "False"
