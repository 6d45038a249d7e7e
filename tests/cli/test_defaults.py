"""Defaults from a file, and what shells complete."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from edgeprune.cli import group, main
from edgeprune.devices.targets import add_group, add_target


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def prune(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What ``edgeprune prune`` was called with."""
    got: dict[str, Any] = {}
    command = group.get_command(click.Context(group), "prune")
    assert command is not None
    monkeypatch.setattr(command, "callback", lambda **given: got.update(given))
    return got


FILE = """
target = "pi5"
seed = 7
[prune]
latency = "50%"
max-drop = 1
format = ["tflite", "pt2"]
no-reuse = true
[bench]
threads = "2"
"""


def test_options_have_the_defaults_of_the_file_and_the_command_line_wins(prune: dict[str, Any]) -> None:
    Path("edgeprune.toml").write_text(FILE)
    assert main(["prune", "r.py", "--seed", "1"]) == 0
    assert (prune["target"], prune["seed"], prune["latency"], prune["max_drop"]) == ("pi5", 1, "50%", 1.0)
    assert (prune["formats"], prune["no_reuse"], prune["race"], prune["epochs"]) == ("tflite,pt2", True, False, None)
    assert main(["--config", "off", "prune", "r.py"]) == 0
    assert (prune["target"], prune["seed"], prune["latency"]) == (None, 0, None)


def test_pyproject_is_read_and_edgeprune_toml_before_it(prune: dict[str, Any]) -> None:
    Path("pyproject.toml").write_text('[project]\nname = "x"\n[tool.edgeprune]\ntarget = "pi4"\n')
    assert main(["prune", "r.py"]) == 0
    assert prune["target"] == "pi4"
    Path("edgeprune.toml").write_text('target = "pi5"\n')
    assert main(["prune", "r.py"]) == 0
    assert prune["target"] == "pi5"
    Path("mine.toml").write_text('target = "phone"\n')
    assert main(["--config", "mine.toml", "prune", "r.py"]) == 0
    assert prune["target"] == "phone"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[prune]\nlatencey = '50%'\n", "'latencey' is no option of prune. Did you mean latency?"),
        ("tarrget = 'pi5'\n", "'tarrget' is no option of any command. Did you mean target?"),
        ("[prun]\n", "there is no command 'prun'. Did you mean prune?"),
        ("[prune]\nno-reuse = 'yes'\n", "no-reuse is 'yes', and true or false is wanted"),
        ("[prune]\nepochs = true\n", "epochs is True, and a text or a number is wanted"),
        ("[prune]\nlatency = '5'\n", "latency '5' has no unit"),
        ("[prune]\nresume = 'runs/a'\n", "'resume' is no option of prune"),
        ("= 1\n", "is not TOML"),
    ],
)
@pytest.mark.usefixtures("prune")
def test_what_is_wrong_is_named(text: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("edgeprune.toml").write_text(text)
    assert main(["prune", "r.py"]) != 0
    assert said in " ".join(capsys.readouterr().err.split())


def test_a_key_of_another_command_is_no_error(prune: dict[str, Any]) -> None:
    Path("edgeprune.toml").write_text("against = 'old.tflite'\n[targets.add]\nprofile = 'raspberry-pi-4'\n")
    assert main(["prune", "r.py"]) == 0
    assert main(["targets", "add", "pi", "ssh://pi@pi"]) == 0
    Path("edgeprune.toml").write_text("[targets.add]\nprofil = 'raspberry-pi-4'\n")
    assert main(["targets", "list"]) != 0


def completed(words: str) -> list[str]:
    """What bash would offer for the last word."""
    place = len(words.split(" ")) - 1
    environment = {**os.environ, "_EDGEPRUNE_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(place)}
    done = subprocess.run([sys.executable, "-m", "edgeprune"], env=environment, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout.split()


def test_commands_targets_profiles_and_files_are_completed() -> None:
    add_target("pi5a", "ssh://pi@a")
    add_target("pi5b", "ssh://pi@b")
    add_group("pis", ["pi5a", "pi5b"])
    Path("edgeprune.toml").write_text("damaged")
    assert completed("edgeprune fron") == ["plain,frontier"]
    assert completed("edgeprune prune --target pi5") == ["plain,pi5a", "plain,pi5b"]
    assert completed("edgeprune bench --target pi5a,pi") == ["plain,pi5a,pi5a", "plain,pi5a,pi5b", "plain,pi5a,pis"]
    assert "plain,raspberry-pi-4" in completed("edgeprune prune --profile rasp")
    assert completed("edgeprune prune rec") == ["file,rec"]
    assert "plain,--target" in completed("edgeprune prune --ta")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_is_one_that_it_takes(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "_EDGEPRUNE_COMPLETE" in script
    if program := shutil.which(shell):
        assert subprocess.run([program, "-n"], input=script, text=True, check=False, timeout=30).returncode == 0
