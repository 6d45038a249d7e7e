"""A recipe's folder on its way to other machines."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from edgeprune.errors import RecipeError
from edgeprune.execute import ship
from edgeprune.execute.ship import zipped


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "recipe"
    for name in ("recipe.py", "parts/layer.py", "__pycache__/recipe.pyc", ".git/objects", "runs/points-1/run.json", "runs/points-1/model"):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text("x" * 100)
    return made


def test_what_a_recipe_imports_is_sent_without_caches_and_runs(folder: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(zipped(folder, tmp_path / "it.zip")) as archive:
        assert sorted(archive.namelist()) == ["parts/layer.py", "recipe.py"]


def test_a_folder_with_data_is_refused_with_its_size(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "images").mkdir()
    (folder / "images" / "all.bin").write_bytes(bytes(3_000_000))
    monkeypatch.setattr(ship, "MOST_BYTES", 1_000_000)
    with pytest.raises(
        RecipeError, match=r"recipe is too large to be sent to other machines: 3 MB, of which images has 3 MB; at most 1 MB"
    ):
        zipped(folder, tmp_path / "it.zip")


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"missing cannot be sent to other machines: .*No such file"):
        zipped(tmp_path / "missing", tmp_path / "it.zip")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "link").symlink_to(tmp_path / "nothing")
    with pytest.raises(RecipeError, match=r"broken cannot be sent to other machines: .*No such file"):
        zipped(tmp_path / "broken", tmp_path / "it.zip")
