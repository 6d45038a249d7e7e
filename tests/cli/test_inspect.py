"""``edgeprune inspect``: groups, blocks, what stays and why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeprune.cli import main

RECIPE = """
import torch
from torch import nn
from edgeprune.task import Task
{more}
def task():
    return Task({model}, (torch.zeros(1, 3, 8, 8),), protect={protect})
"""
CHAIN = "nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))"
RESIDUAL = """
class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.wide, self.narrow, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 24, 3, 1, 1), nn.Conv2d(24, 8, 1), nn.Linear(8, 4)

    def forward(self, x):
        x = self.stem(x).relu()
        return self.head((x + self.narrow(self.wide(x).relu())).mean((2, 3)))
"""
ODD = """
class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 10, 1), nn.Linear(10, 4)

    def forward(self, x):
        return self.head(self.second({operation}(self.first(x))).mean((2, 3)))
"""
AUXILIARY = """
class Auxiliary(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.drop, self.head, self.aux = nn.Conv2d(3, 8, 1), nn.Dropout2d(0.5), nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x):
        x = self.drop(self.body(x)).mean((2, 3))
        return (self.head(x), self.aux(x)) if self.training else self.head(x)
"""


@pytest.fixture
def recipe(tmp_path: Path):
    """Write a recipe for a model."""

    def write(model: str, more: str = "", protect: tuple[str, ...] = ()) -> str:
        path = tmp_path / "recipe.py"
        path.write_text(RECIPE.format(model=model, more=more, protect=protect))
        return str(path)

    return write


def inspect(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    assert main(["inspect", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_groups_own_what_goes_with_their_channels_and_the_rest_has_reasons(recipe, capsys) -> None:
    found = inspect(capsys, recipe(CHAIN))
    total = 3 * 16 * 9 + 16 + 16 * 8 * 9 + 8 + 8 * 5 + 5
    assert (found["model"], found["parameters"]) == ("recipe", total)
    assert found["prunable"] == pytest.approx((total - 5) / total)  # all but the scores' bias
    first, second = found["groups"]
    assert first == {
        "name": "0",
        "rows": 1,
        "units": 16,
        "channels": 16,
        "parameters": 3 * 16 * 9 + 16 + 16 * 8 * 9,
        "share": pytest.approx(first["parameters"] / total),
        "producers": ["0"],
        "readers": ["2"],
        "constraints": [],
        "block": None,
    }
    assert (second["units"], second["parameters"], second["readers"]) == (8, 16 * 8 * 9 + 8 + 8 * 5, ["5"])
    assert found["fixed"] == [{"reason": "5: reaches the model's output", "channels": 5}]
    assert found["blocks"] == found["unsupported"] == []


def test_a_block_that_may_go_whole_is_listed_with_its_groups(recipe, capsys) -> None:
    found = inspect(capsys, recipe("Residual()", RESIDUAL))
    (block,) = found["blocks"]
    assert block["parameters"] == 8 * 24 * 9 + 24 + 24 * 8 + 8
    inner = {group["name"]: group for group in found["groups"]}["wide"]
    assert inner["block"] == block["name"]
    assert block["groups"] == ["wide"]


def test_protected_layers_stay_and_say_so(recipe, capsys) -> None:
    found = inspect(capsys, recipe(CHAIN, protect=("0",)))
    assert [group["name"] for group in found["groups"]] == ["2"]
    assert {"reason": "0: protected", "channels": 16} in found["fixed"]


def test_an_operation_without_a_rule_is_named_with_what_it_fixes(recipe, capsys) -> None:
    path = recipe("Odd()", ODD.format(operation="(lambda x: torch.linalg.qr(x).Q)"))
    found = inspect(capsys, path)
    (unsupported,) = found["unsupported"]
    assert unsupported["operation"] == "aten.linalg_qr.default"
    assert [group["units"] for group in found["groups"]] == [10]
    assert found["fixed"][0]["channels"] == 6
    assert "aten.linalg_qr.default" in found["fixed"][0]["reason"]
    assert main(["inspect", path]) == 0
    assert "aten.linalg_qr.default" in capsys.readouterr().out


def test_the_tables_name_groups_layers_blocks_and_reasons(recipe, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["inspect", recipe("Residual()", RESIDUAL)]) == 0
    out = capsys.readouterr().out
    for text in (
        "wide",
        "narrow",
        "stem",
        "24",
        "blocks that can be removed",
        "reaches the model's output",
        "recipe: 2 groups of 32 channels",
    ):
        assert text in out


def test_rows_that_stay_equal_show_as_rows_with_their_reason(recipe, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    grouped = "nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 12, 1, groups=4), nn.Flatten(), nn.Linear(12 * 64, 2))"
    path = recipe(grouped)
    group = inspect(capsys, path)["groups"][0]
    assert (group["rows"], group["units"], group["channels"]) == (4, 4, 16)
    assert group["constraints"]
    assert main(["inspect", path]) == 0
    out = capsys.readouterr().out
    assert "4 x 4" in out
    assert "rows keep equally many" in out


def test_one_group_in_full(recipe, capsys) -> None:
    path = recipe(CHAIN)
    found = inspect(capsys, path, "--group", "0")
    assert [(part["name"], part["role"], part["shape"], part["owned"]) for part in found["stored"]] == [
        ("0.weight", "produces", [16, 3, 3, 3], 432),
        ("0.bias", "produces", [16], 16),
        ("2.weight", "reads", [8, 16, 3, 3], 1152),
    ]
    assert main(["inspect", path, "--group", "0"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("0: 16 units, which own 1,600 parameters")
    assert "8 x 16 x 3 x 3" in out


def test_an_unknown_group_is_named_with_those_that_are_like_it(recipe, capsys) -> None:
    assert main(["inspect", recipe("Residual()", RESIDUAL), "--group", "wode"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "no group 'wode'" in captured.err
    assert "wide" in captured.err


BRANCH = """
class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 6, 3), nn.ReLU())
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        x = self.body(x).mean((2, 3))
        return self.head(x if x.sum() > 0 else -x)
"""


def test_a_model_that_cannot_be_captured_whole_says_which_parts_were_followed_and_why(recipe, capsys) -> None:
    path = recipe("Branch()", BRANCH)
    found = inspect(capsys, path)
    assert [group["units"] for group in found["groups"]] == [12]
    assert "body" in found["parts"]
    assert "Branch" in found["whole"]
    assert main(["inspect", path]) == 0
    assert f"cannot be captured whole: {found['whole']}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("model", "more", "said"),
    [
        ("nn.Sequential(nn.Flatten(), nn.Linear(192, 4))", "", "nothing can be pruned"),
        ("nn.Conv2d(4, 2, 1)", "", "does not run on the example inputs (1, 3, 8, 8)"),
        ("Odd()", ODD.format(operation="(lambda x: x if x.sum() > 0 else -x)"), "torch.export cannot capture Odd"),
    ],
)
def test_a_model_that_cannot_be_pruned_is_one_clear_error(model, more, said, recipe, capsys) -> None:
    assert main(["inspect", recipe(model, more), "--json"]) == 1
    captured = capsys.readouterr()
    assert said in json.loads(captured.out)["error"]["message"]
    assert said in captured.err


def test_attention_loses_heads_or_dimensions_of_every_head(recipe, tmp_path, capsys) -> None:
    path = tmp_path / "attention.py"
    path.write_text(
        "import torch\nfrom torch import nn\nfrom edgeprune.task import Task\n\n\n"
        "def task():\n"
        "    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)\n"
        "    model = nn.Sequential(nn.Linear(9, 32), layer, nn.Flatten(), nn.Linear(320, 3))\n"
        "    return Task(model.eval(), (torch.zeros(1, 10, 9),))\n"
    )
    by_head = {group["name"]: group for group in inspect(capsys, str(path))["groups"]}
    by_dimension = {group["name"]: group for group in inspect(capsys, str(path), "--attention", "dimensions")["groups"]}
    assert [group["units"] for group in by_head.values()].count(4) >= 1  # four heads
    assert (64, 1) in [(group["units"], group["rows"]) for group in by_head.values()]  # the feed-forward layer
    assert by_head != by_dimension


def test_what_acts_in_training_only_is_listed(recipe, capsys) -> None:
    path = recipe("Auxiliary()", AUXILIARY)
    assert inspect(capsys, path)["training"] == {"layers": ["drop", "aux"], "outputs": True, "why": None}
    assert main(["inspect", path]) == 0
    assert "acts in training only: drop, aux (cut along" in capsys.readouterr().out
    assert inspect(capsys, recipe(CHAIN))["training"] is None
