"""What pyproject.toml ships is what is on disk, and an editable install follows the files."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import edgeprune
from edgeprune.resources import resource

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]
MAPPED = {name: ROOT / folder for name, folder in SETUPTOOLS["package-dir"].items()}


def folder_of(package: str) -> Path:
    """The folder that pyproject.toml maps ``package`` to: by its longest mapped prefix."""
    prefix = max((name for name in MAPPED if package == name or package.startswith(f"{name}.")), key=len)
    return MAPPED[prefix].joinpath(*package.removeprefix(prefix).strip(".").split("."))


def test_the_version_is_the_same_everywhere_and_the_changelog_has_it():
    version = edgeprune.__version__
    assert PROJECT["project"]["version"] == version
    assert re.search(rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_the_packages_are_the_folders_on_disk():
    on_disk = {
        ".".join([name, *file.parent.relative_to(folder).parts]) for name, folder in MAPPED.items() for file in folder.rglob("__init__.py")
    }
    assert sorted(SETUPTOOLS["packages"]) == sorted(on_disk)
    assert len(SETUPTOOLS["packages"]) == len(set(SETUPTOOLS["packages"]))


def test_every_folder_with_code_is_a_package():
    for folder in MAPPED.values():
        for file in folder.rglob("*.py"):
            assert (file.parent / "__init__.py").is_file(), f"{file.relative_to(ROOT)} is in no package and would not be shipped"


def test_every_data_file_is_shipped():
    shipped: set[Path] = set()
    for package, patterns in SETUPTOOLS["package-data"].items():
        for pattern in patterns:
            matched = set(folder_of(package).glob(pattern))
            assert matched, f"package-data {package}: {pattern} matches nothing"
            shipped |= matched
    skipped = {"__pycache__", ".py", ".pyc"}
    data = {
        file
        for folder in MAPPED.values()
        for file in folder.rglob("*")
        if file.is_file() and file.suffix not in skipped and "__pycache__" not in file.parts
    }
    assert sorted(data - shipped) == []


def test_resources_are_read_through_the_package():
    assert "name" in tomllib.loads(resource("profiles", "raspberry-pi-4.toml").read_text())


def test_an_editable_install_follows_the_files(tmp_path):
    import edgeprune

    if ROOT not in Path(edgeprune.__file__).parents:
        pytest.skip("edgeprune is not installed in editable mode here")
    for package, folder in {"edgeprune.graph": "edgeprune/graph", "edgeprune.profiles": "profiles", "edgeprune.targets": "targets"}.items():
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert Path(spec.origin).parent == ROOT / folder, f"{package} is a copy: run pip install -e ."
    script = "import edgeprune.profiles, edgeprune.deploy, edgeprune.targets.runner as r; print(r.__file__)"
    outside = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert Path(outside.stdout.strip()).parent == ROOT / "targets" / "runner"
