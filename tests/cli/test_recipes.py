"""``edgeprune recipes``: list, show, and copies that run by themselves."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from edgeprune.cli import main
from edgeprune.task import load_recipe

RECIPES = Path(__file__).parents[2] / "recipes"
NAMES = sorted(path.stem for path in RECIPES.glob("[!_]*.py"))


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """A terminal where nothing is folded."""
    monkeypatch.setenv("COLUMNS", "500")


@pytest.fixture
def fresh():
    """No modules of recipes, neither before nor after."""

    def forget() -> None:
        for path in RECIPES.glob("*.py"):
            sys.modules.pop(path.stem, None)

    forget()
    yield
    forget()


@pytest.mark.parametrize("arguments", [[], ["list"]])
def test_the_list_names_every_recipe(arguments, capsys):
    assert main(["recipes", *arguments]) == 0
    out = capsys.readouterr().out
    assert [name for name in NAMES if name not in out] == []


def test_the_list_as_json_says_what_each_needs(capsys):
    assert main(["recipes", "list", "--json"]) == 0
    listed = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert sorted(listed) == NAMES
    assert listed["digits"]["needs"] == ["scikit-learn"]
    assert listed["digits"]["data"] == []
    assert sorted(listed["cifar10_resnet20"]["files"]) == sorted(["cifar10_resnet20.py", "_cifar10.py", "_data.py", "_originals.py"])
    assert {data["name"] for data in listed["cifar10_resnet20"]["data"]} == {"cifar10", "weights"}
    for entry in listed.values():
        assert entry["title"]
        assert all(data["fetch"] for data in entry["data"]), f"{entry['name']}: _data.SOURCES does not say where its data are from"


def test_show_says_where_the_data_are_from(capsys):
    assert main(["recipes", "show", "har"]) == 0
    out = capsys.readouterr().out
    assert "26 a second" in out
    assert "https://github.com/" in out
    assert "EDGEPRUNE_DATA" in out


def test_an_unknown_recipe_lists_those_that_look_like_it(capsys):
    assert main(["recipes", "show", "digit"]) == 1
    assert "Did you mean digits?" in capsys.readouterr().err


def test_a_copy_runs_in_an_empty_folder(tmp_path, monkeypatch, capsys, fresh):
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    assert main(["recipes", "copy", "digits"]) == 0
    assert "edgeprune prune digits.py --profile" in capsys.readouterr().out
    (tmp_path / "digits.py").write_text((tmp_path / "digits.py").read_text().replace('{"epochs": 4', '{"epochs": 0.01'))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    task = load_recipe("digits.py")
    assert sys.modules["_trained"].__file__ == str(tmp_path / "_trained.py")
    assert task.model(*task.example_inputs).shape == (1, 10)


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_brings_all_that_it_imports(name, tmp_path, capsys):
    assert main(["recipes", "copy", name, str(tmp_path / "new/folder")]) == 0
    listed = capsys.readouterr().out
    for path in (tmp_path / "new/folder").iterdir():
        assert path.read_text() == (RECIPES / path.name).read_text()
        assert str(path) in listed


def test_a_copy_overwrites_nothing(tmp_path, capsys):
    (tmp_path / "_data.py").write_text("mine")
    assert main(["recipes", "copy", "har", str(tmp_path)]) == 1
    assert "_data.py is there, and differs" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["_data.py"]
    assert main(["recipes", "copy", "har", str(tmp_path), "--force"]) == 0
    assert main(["recipes", "copy", "har", str(tmp_path)]) == 0, "the same files are no hindrance"


def test_the_name_of_a_ready_recipe_says_how_to_get_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["inspect", "har.py"]) == 1
    assert "edgeprune recipes copy har" in capsys.readouterr().err
