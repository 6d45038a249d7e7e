"""The command line's frame: lazy commands, error messages, exit codes, JSON."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

import edgeprune
from edgeprune.cli import main
from edgeprune.cli.options import budget_options, json_option
from edgeprune.cli.output import print_json
from edgeprune.errors import DeviceBusyError


@pytest.fixture
def prune(monkeypatch: pytest.MonkeyPatch):
    """Put a command in the place of ``prune``."""

    def install(command: click.Command) -> None:
        module = types.ModuleType("edgeprune.cli.prune")
        module.command = command
        monkeypatch.setitem(sys.modules, "edgeprune.cli.prune", module)

    return install


def raising(error: BaseException) -> click.Command:
    @click.command()
    def command() -> None:
        raise error

    return command


def test_help_lists_the_commands_without_importing_torch_or_rich() -> None:
    code = (
        "import sys; from edgeprune.cli import main; code = main(['--help']);"
        "assert not {'torch', 'numpy', 'scipy', 'rich', 'paramiko'} & set(sys.modules), sorted(sys.modules); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == 0, done.stderr
    for name in ("prune", "bench", "probe", "targets", "export", "profiles"):
        assert f"\n  {name} " in done.stdout


def test_python_m_works() -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-m", "edgeprune", "--version"], capture_output=True, text=True, cwd=root, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"edgeprune, version {edgeprune.__version__}\n"


@pytest.mark.parametrize("arguments", [["prnue"], ["--unknown"], ["prune", "--unknown"]])
def test_wrong_usage_is_exit_2_with_the_usage(arguments: list[str], prune, capsys: pytest.CaptureFixture[str]) -> None:
    prune(click.Command("prune"))
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Usage:" in captured.err


def test_an_edgeprune_error_is_one_message_with_its_remedy_and_notes(prune, capsys: pytest.CaptureFixture[str]) -> None:
    error = DeviceBusyError("pi5 is in use by alice [since 10:02]", remedy="Wait, or use --force.")
    error.add_note("runs/7 can be continued.")
    prune(raising(error))
    assert main(["prune"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "error: pi5 is in use by alice [since 10:02]\nWait, or use --force.\nruns/7 can be continued.\n"


@pytest.mark.parametrize("arguments", [["--debug", "prune"], ["prune", "--debug"]])
def test_debug_shows_the_traceback_wherever_it_stands(arguments: list[str], prune, capsys: pytest.CaptureFixture[str]) -> None:
    prune(raising(DeviceBusyError("pi5 is in use")))
    assert main(arguments) == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_unexpected_error_is_exit_70_and_points_to_debug(prune, capsys: pytest.CaptureFixture[str]) -> None:
    prune(raising(ZeroDivisionError("division by zero")))
    assert main(["prune"]) == 70
    err = capsys.readouterr().err
    assert err.startswith("error: ZeroDivisionError: division by zero\n")
    assert "--debug" in err
    assert "Traceback" not in err


def test_an_interrupt_is_exit_130_and_says_how_to_resume(prune, capsys: pytest.CaptureFixture[str]) -> None:
    interrupt = KeyboardInterrupt()
    interrupt.add_note("Continue with: edgeprune prune --resume runs/7")
    prune(raising(interrupt))
    assert main(["prune"]) == 130
    assert capsys.readouterr().err.strip().endswith("error: Interrupted.\nContinue with: edgeprune prune --resume runs/7")


def test_json_is_alone_on_stdout_whatever_else_prints(prune, capsys: pytest.CaptureFixture[str]) -> None:
    @dataclass
    class Point:
        name: str
        value: float

    @click.command()
    @json_option
    def command(as_json: bool) -> None:
        print("a recipe's chatter")
        print_json({"as_json": as_json, "points": [Point("a", 1.5), Point("b", float("nan"))], "path": Path("runs/7")})

    prune(command)
    assert main(["prune", "--json"]) == 0
    captured = capsys.readouterr()
    expected = {"as_json": True, "points": [{"name": "a", "value": 1.5}, {"name": "b", "value": None}], "path": "runs/7"}
    assert json.loads(captured.out) == expected
    assert captured.err == "a recipe's chatter\n"


def test_budget_options_take_units_and_refuse_bare_numbers(prune, capsys: pytest.CaptureFixture[str]) -> None:
    got = {}

    @click.command()
    @budget_options
    def command(**limits: object) -> None:
        got.update(limits)

    prune(command)
    assert main(["prune", "--latency", "50%", "--memory", "20MB", "--max-drop", "1.5"]) == 0
    others = dict.fromkeys(("throughput", "energy", "size", "macs", "parameters"))
    assert got == {"latency": "50%", "memory": "20MB", "max_drop": 1.5, **others}
    assert main(["prune", "--latency", "15"]) == 1
    assert "latency '15' has no unit" in capsys.readouterr().err


def test_commands_return_their_exit_code(prune) -> None:
    prune(click.Command("prune", callback=lambda: 3))
    assert main(["prune"]) == 3
