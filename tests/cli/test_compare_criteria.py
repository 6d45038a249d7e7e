"""``edgeprune compare-criteria``: a table or one document, and errors that name the thing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeprune.cli import main

RECIPE = """
import torch
from torch import nn
from edgeprune.task import Task
torch.manual_seed(0)
def task():
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))
    batches = [(torch.randn(64, 6), torch.randint(0, 3, (64,))) for _ in range(3)]
    return Task(model, (torch.zeros(1, 6),), train={data})
"""


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    path = tmp_path / "recipe.py"
    path.write_text(RECIPE.format(data="batches"))
    return str(path)


def test_the_document_holds_what_was_measured(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["compare-criteria", recipe, "--criteria", "l2, taylor", "--share", "0.5", "--samples", "10", "--images", "64", "--json"]
    arguments += ["--device", "cpu"]
    assert main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert {one["name"] for one in found["criteria"]} == {"l2", "taylor"}
    for one in found["criteria"]:
        assert one["channel"]["low"] <= one["channel"]["high"]
        assert [followed["share"] for followed in one["followed"]] == [0.5]
    assert len(found["channels"]) == 10
    assert {cut["group"] for cut in found["channels"]} == {"0", "2"}
    assert set(found["channels"][0]["predicted"]) == {"l2", "taylor"}
    assert found["images"] == 64


def test_the_table_has_a_line_for_every_criterion_and_says_what_was_left_out(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare-criteria", recipe, "--samples", "1", "--images", "64"]) == 0
    printed = capsys.readouterr().out
    for name in ("l1", "lamp", "fpgm", "apoz", "fisher", "-25%", "-50%"):
        assert name in printed
    assert "bn-scale: criterion bn-scale needs batch-norm" in printed


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--criteria", "l9"], 1, "unknown criterion 'l9'"),
        (["--device", "cuda:77"], 1, "cuda:77"),
        (["--share", "2"], 1, "not all between 0 and 1"),
        (["--share", "half"], 2, "not a list of numbers"),
    ],
)
def test_mistakes_are_named(recipe: str, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str) -> None:
    assert main(["compare-criteria", recipe, *arguments]) == code
    said = capsys.readouterr()
    assert message in said.err.replace("\n", " ")
    assert not said.out


def test_a_task_without_data_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "recipe.py"
    path.write_text(RECIPE.format(data="None"))
    assert main(["compare-criteria", str(path)]) == 1
    assert "task recipe has no training data" in capsys.readouterr().err
