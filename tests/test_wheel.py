"""The wheel, built from the sdist, installed in an environment of its own and run outside the repository (``make wheel-test``)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT], check=True, capture_output=True)
    assert len(list(folder.glob("*.tar.gz"))) == 1
    (built,) = folder.glob("*.whl")
    return built


def environment(folder: Path, *install: str | Path) -> Path:
    """The interpreter of a new environment with edgeprune installed so, and the heavy dependencies from this one."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    interpreter = folder / "bin" / "python"
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text("".join(f"{path}\n" for path in sys.path if path.endswith("site-packages")))
    pip = [sys.executable, "-m", "pip", "--python", interpreter, "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*pip, "--force-reinstall", *install], check=True, env=clean())
    return interpreter


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory) -> Path:
    """An interpreter that has edgeprune from the wheel."""
    return environment(tmp_path_factory.mktemp("installed"), wheel)


def clean() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def run(python: Path, folder: Path, *arguments: str) -> str:
    done = subprocess.run([python, *arguments], cwd=folder, env=clean(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout[-3000:]
    return done.stdout


def test_edgeprune_comes_from_the_wheel(python, tmp_path):
    place = run(python, tmp_path, "-c", "import edgeprune; print(edgeprune.__file__)").strip()
    assert Path(place).is_relative_to(python.parents[1]), place


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].removesuffix(".dist-info").split("-")[0] for name in names} == {"edgeprune"}
    assert "edgeprune/py.typed" in names
    assert not [name for name in names if "__pycache__" in name or name.endswith((".pyc", ".pyz"))]
    for folder in ("targets", "profiles", "deploy"):
        for file in (ROOT / folder).rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                assert f"edgeprune/{file.relative_to(ROOT)}" in names
    assert not {f"edgeprune/recipe_files/{file.name}" for file in (ROOT / "recipes").glob("*.py")} - set(names)


def test_the_command_and_its_help(python, tmp_path):
    command = str(python.parent / "edgeprune")
    for arguments in (["--help"], ["prune", "--help"], ["profiles", "--help"], ["export", "--help"]):
        done = subprocess.run([command, *arguments], cwd=tmp_path, env=clean(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "Usage: edgeprune" in done.stdout


def test_profiles_are_found(python, tmp_path):
    listed = json.loads(run(python, tmp_path, "-m", "edgeprune", "profiles", "list", "--json"))
    assert "raspberry-pi-4" in [entry["name"] for entry in listed]
    assert "Cortex-A72" in run(python, tmp_path, "-m", "edgeprune", "profiles", "show", "raspberry-pi-4")


def test_a_recipe_is_copied_and_loaded(python, tmp_path):
    assert "digits.py" in run(python, tmp_path, "-m", "edgeprune", "recipes", "copy", "digits")
    script = "from edgeprune.recipes import run_recipe; print(run_recipe('digits.py', 'network'))"
    assert "AdaptiveAvgPool2d" in run(python, tmp_path, "-c", script)


def test_the_runner_is_packed_and_runs(python, tmp_path):
    script = "from edgeprune.devices.pack import build_runner; name, content = build_runner(); open(name, 'wb').write(content); print(name)"
    name = run(python, tmp_path, "-c", script).strip()
    request = json.dumps({"action": "probe", "verify": []}) + "\n"
    done = subprocess.run([sys.executable, "-I", "-S", name], cwd=tmp_path, input=request, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "result" in json.loads(done.stdout.splitlines()[-1]), "it runs without any site-packages"


def test_an_editable_install_has_live_edits(tmp_path):
    copy = tmp_path / "repository"
    for name in ("edgeprune", "targets", "profiles", "deploy", "recipes"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    interpreter = environment(tmp_path / "installed", "--editable", copy)
    assert run(interpreter, tmp_path, "-c", "import edgeprune; print(edgeprune.__file__)").strip() == str(
        copy / "edgeprune" / "__init__.py"
    )
    for name in ("edgeprune/report", "targets/runner", "deploy"):
        (copy / name / "added.py").write_text("VALUE = 1\n")
    (copy / "profiles" / "added.toml").write_text("value = 1\n")
    script = (
        "import edgeprune.report.added, edgeprune.targets.runner.added, edgeprune.deploy.added\n"
        "from edgeprune.resources import resource\n"
        "print(resource('profiles', 'added.toml').read_text())"
    )
    assert run(interpreter, tmp_path, "-c", script).strip() == "value = 1"


def test_an_export_finds_its_worker(python, tmp_path):
    script = (
        "import torch, edgeprune.export as e\n"
        "print(e.export(torch.nn.Linear(4, 2), (torch.ones(1, 4),), ['tflite', 'torchscript'], 'out')['tflite'])"
    )
    assert run(python, tmp_path, "-c", script).strip().endswith("out/model.tflite")
    assert (tmp_path / "out" / "model.tflite").is_file()


def test_the_fast_tests_pass_against_the_wheel(python, tmp_path):
    patterns = ("test_profile.py", "export/test_parity.py", "cli/test_main.py")
    tests = [str(path) for pattern in patterns for path in sorted((ROOT / "tests").glob(pattern))]
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside/benchmarks").symlink_to(ROOT / "benchmarks")  # not the repository's root: the package would come from there
    options = ["-c", str(ROOT / "pyproject.toml"), f"--rootdir={tmp_path}", "-o", f"pythonpath={ROOT / 'tests'} {tmp_path / 'beside'}"]
    run(python, tmp_path, "-m", "pytest", *options, "-p", "no:cacheprovider", "-m", "not soak", *tests)
