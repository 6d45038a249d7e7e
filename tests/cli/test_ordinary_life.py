"""What happens to users: mistakes in recipes and budgets, a command that is ended from outside, a run that goes on from another folder."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import click
import numpy as np
import pytest
from release_runs import make_run

from edgeprune.budget import Budget, parse_limit
from edgeprune.cli import main
from edgeprune.cli.live import text_of
from edgeprune.errors import BudgetError, CheckpointError, PlanError, ProfileError, RecipeError, RunError
from edgeprune.profile import load as load_profile
from edgeprune.release.build.build import build
from edgeprune.release.build.build_spec import BuildSpec
from edgeprune.runs.directory import RunDirectory, working_directory
from edgeprune.surgery.plan import Plan
from edgeprune.task import load_recipe
from edgeprune.testing.models import dense_tflite


@pytest.mark.parametrize(
    ("text", "value"),
    [("20M", 20e6), ("20MB", 20e6), ("20mb", 20e6), ("20Mi", 20 * 2**20), ("20MiB", 20 * 2**20), ("512K", 512e3), ("512kB", 512e3),
     ("1G", 1e9), ("1.5Gi", 1.5 * 2**30), ("100 b", 100), (" 1e3 K ", 1e6), ("+2M", 2e6)],
)  # fmt: skip
def test_bytes_may_be_written_as_counts_are(text: str, value: float) -> None:
    assert parse_limit("memory", text).value == parse_limit("size", text).value == value


@pytest.mark.parametrize(
    ("kind", "text", "told"),
    [
        ("memory", "0MB", "must be greater than zero"),
        ("memory", "0", "must be greater than zero"),
        ("memory", "-20MB", "must be greater than zero"),
        ("latency", "-5%", "must be greater than zero"),
        ("latency", "nan", "is not a finite number"),
        ("latency", "NaNms", "is not a finite number"),
        ("energy", "inf", "is not a finite number"),
        ("size", "1e999MB", "is not a finite number"),
        ("memory", "20", "has no unit"),
        ("memory", "20ms", "unknown unit 'ms'"),
        ("latency", "15mss", "Did you mean ms"),
        ("latency", "fast", "is not a quantity"),
        ("latency", "", "is not a quantity"),
        ("macs", "٤M", "is not a quantity"),
        ("latency", 15, "is not a quantity"),
    ],
)
def test_a_budget_that_cannot_be_meant_is_explained(kind: str, text: str, told: str) -> None:
    with pytest.raises(BudgetError) as caught:
        Budget(**{kind: text})
    assert told in str(caught.value)
    assert caught.value.remedy


RECIPES = {
    "no .py": ("recipe.txt", "def task(): pass", "does not end in .py"),
    "no suffix": ("recipe", "", "does not end in .py"),
    "syntax": ("recipe.py", "x = 1\ndef task(:\n", "SyntaxError in line 2 of recipe.py"),
    "an import": ("recipe.py", "\nimport nowhere_to_be_found", "ModuleNotFoundError in line 2"),
    "raises": ("recipe.py", "def task():\n    return {}['data']", "KeyError in line 2: 'data'"),
    "fails without a word": ("recipe.py", "def task():\n    assert False", "AssertionError in line 2: without a message"),
    "exits": ("recipe.py", "import sys\nsys.exit(3)", "SystemExit in line 2: 3"),
    "no task": ("recipe.py", "x = 1", "has no function task()"),
    "a task that is no function": ("recipe.py", "task = 5", "has a int, not a function, task()"),
    "another type": ("recipe.py", "def task(): return 3", "returned a int"),
    "nothing": ("recipe.py", "def task(): pass", "returned a NoneType"),
    "needs an argument": ("recipe.py", "def task(data): pass", "TypeError"),
    "no text": ("recipe.py", "\x00", "recipe.py raised"),
    "nested": ("recipe.py", "x = " + "(" * 300 + ")" * 300, "recipe.py raised"),
    "recurses": ("recipe.py", "def task(): return task()", "RecursionError in line 1"),
}


@pytest.mark.parametrize(("name", "text", "told"), RECIPES.values(), ids=RECIPES)
def test_a_recipe_that_is_none_is_named_with_its_line(name: str, text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(tmp_path / name)
    assert told in caught.value.message
    assert caught.value.remedy


def test_a_folder_is_not_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prune", str(tmp_path), "--profile", "raspberry-pi-4", "--latency", "50%"]) != 0
    said = capsys.readouterr().err
    assert "is a folder" in said
    assert "fault of edgeprune" not in said


@pytest.mark.parametrize("event", [{"event": "upload"}, {"event": "measured", "name": "m", "median_ms": "fast"}, {"event": "later"}])
def test_an_event_that_lacks_what_is_shown_is_not_shown(event: dict[str, str]) -> None:
    assert text_of(event) is None


WAITS = """
import sys, time
import click
from edgeprune import cli
import types
@click.command()
def command():
    try:
        print("begun", flush=True)
        time.sleep(60)
    except BaseException as error:
        print(type(error).__name__, flush=True)
        raise
module = types.ModuleType("edgeprune.cli.prune")
module.command = command
sys.modules["edgeprune.cli.prune"] = module
sys.exit(cli.main(["prune"]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_command_that_is_ended_from_outside_cleans_up_as_after_ctrl_c(number: signal.Signals) -> None:
    def as_in_a_terminal() -> None:  # a test run in the background may ignore these signals, and its children would too
        signal.signal(number, signal.SIG_DFL)

    command = [sys.executable, "-c", WAITS]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=as_in_a_terminal)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "KeyboardInterrupt\n")
    assert "Interrupted." in err
    assert number == signal.SIGINT or number.name in err
    assert "Traceback" not in err


def test_a_sighup_that_is_ignored_stays_so() -> None:
    code = WAITS.replace("time.sleep(60)", "import os; os.kill(os.getpid(), 1); print('goes on')")
    process = subprocess.run(["nohup", sys.executable, "-c", code], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    assert (process.returncode, "goes on" in process.stdout) == (0, True)


def test_signals_are_as_before_after_a_command() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]
    main(["--version"])
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)] == before


def test_a_run_that_continues_does_so_in_the_folder_that_it_was_started_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeprune.cli.job import enter_directory

    started, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    for folder in (started, elsewhere):
        folder.mkdir()
    monkeypatch.chdir(started)
    run = RunDirectory.create(Path("runs"), "model")
    run.close()
    monkeypatch.chdir(elsewhere)
    relative = Path(os.path.relpath(started / run.path, elsewhere))
    context: object = None
    assert enter_directory(context, context, relative) == (started / run.path).resolve()  # type: ignore[arg-type]
    assert Path.cwd() == started
    assert working_directory(tmp_path) is None
    started.rename(tmp_path / "moved")
    assert working_directory(tmp_path / "moved" / run.path) is None  # it is gone: paths mean what they mean here


class FullDisk:
    """Writing to the disk fails as on a full one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", refuse)


def test_a_full_disk_is_not_a_fault_of_edgeprune(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from torch import nn

    from edgeprune.surgery.checkpoint import write_tensors
    from edgeprune.tuning.checkpoint import Progress, save_checkpoint

    FullDisk(monkeypatch)
    with pytest.raises(CheckpointError, match="weights cannot be written: No space left on device"):
        write_tensors(tmp_path / "weights", {"a": torch.zeros(2)}, {})
    with pytest.raises(CheckpointError, match="No space left on device"):
        save_checkpoint(tmp_path / "tuning", nn.Linear(2, 2), None, Progress({}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_what_the_machine_refuses_is_named(number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    @click.command()
    def command() -> None:
        raise OSError(number, os.strerror(number), "/data/run.json")

    module = types.ModuleType("edgeprune.cli.prune")
    module.command = command  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "edgeprune.cli.prune", module)
    assert main(["prune"]) == 1
    said = capsys.readouterr().err
    assert f"/data/run.json cannot be used: {os.strerror(number)}" in said
    assert "fault of edgeprune" not in said


DEEP, LONG = "[" * 3000 + "]" * 3000, "1" * 5000


@pytest.mark.parametrize("text", [DEEP, f'{{"inputs": {DEEP}}}', f'{{"inputs": {LONG}}}', LONG, "{", ""])
def test_a_run_or_plan_that_cannot_be_read_is_named(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.json").write_text(text)
    (tmp_path / "measurements.jsonl").write_text(text + "\n")
    run = str(tmp_path)
    for command in (["prune", "--resume", run], ["frontier", "--resume", run], ["release", "build", run, "--version", "1.0.0"]):
        assert main(command) == 1
        said = capsys.readouterr().err
        assert "run" in said
        assert "fault of edgeprune" not in said
    with pytest.raises(PlanError):
        Plan.from_json(text)


@pytest.mark.parametrize("text", ["name = " + DEEP, "name = " + LONG, "\x00", "name ="])
def test_a_profile_that_cannot_be_read_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(ProfileError, match=r"mine\.toml"):
        load_profile(tmp_path / "mine.toml")


def test_a_run_that_cannot_be_written_is_built_into_a_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finished run of another user, or on a disk that is read-only: its score is not kept, and that is all."""
    run = make_run(tmp_path / "run")
    monkeypatch.setattr(RunDirectory, "record", refuse_to_write)
    told: list[str] = []
    spec = BuildSpec(runs={"default": run}, version="1.0.0")
    assert build(spec, tmp_path / "x.epb", told.append).is_file()
    assert any("the score is not kept" in line for line in told)


def refuse_to_write(self: RunDirectory, key: str, value: object) -> None:
    raise RunError(f"{self.path} cannot be written: Read-only file system")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ["prune", "r.py", "--profile", "raspberry-pi-4", "--macs", "50%", "--epochs", "inf"],
            "epochs inf must be zero or more, and finite",
        ),
        (["prune", "r.py", "--profile", "raspberry-pi-4", "--macs", "50%", "--weight-decay", "inf"], "weight_decay inf"),
        (
            ["prune", "r.py", "--profile", "raspberry-pi-4", "--macs", "50%", "--step", "100000"],
            "step 100000 must be at least 1, and at most",
        ),
        (["prune", "r.py", "--profile", "raspberry-pi-4", "--macs", "50%", "--precision", ","], "precision none"),
        (["bench", "m.tflite", "--affinity", "3-1"], "affinity '3-1' names no processors"),
        (["bench", "m.tflite", "--limit-temperature", "nan"], "temperature limit nan"),
        (["bench", "m.tflite", "--limit-temperature", "-300"], "temperature limit -300"),
        (["bench", "m.tflite", "--min-time", "1e300"], "min_time_s 1e+300"),
        (["bench", "m.tflite", "--min-time", "3", "--max-time", "2"], "max_time_s 2.0 is less than min_time_s 3.0"),
        (["bench", "m.tflite", "--threads", "99999999999999999999"], "threads 99999999999999999999"),
        (["bench", "m.tflite", "--history", "nonsense"], "'nonsense' is not a database address"),
        (["bench", "."], "is of an unknown kind"),
        (["bench", "folder.tflite"], "is a folder"),
        (["bench", "text.tflite"], "holds text, and a TFLite file is needed"),
        (["export", "--show", "text.tflite"], "text.tflite holds text"),
        (["export", "--show", "empty.onnx"], "empty.onnx holds nothing"),
        (["micro", "folder.tflite"], "is a folder"),
        (["targets", "add", "pi", "ssh://pi", "--profile", "rasberry-pi-4"], "unknown profile 'rasberry-pi-4'"),
        (["sparsify", "r.py", "--sparsity", "80%", "--target", "nowhere"], "unknown target 'nowhere'"),
        (["sparsify", "r.py", "--sparsity", "80%", "--checkpoint", "text.tflite"], "checkpoint text.tflite cannot be read"),
        (["sparsify", "r.py", "--sparsity", "auto", "--latency", "50%", "--target", "nowhere"], "unknown target 'nowhere'"),
        (["compare-criteria", "r.py", "--criteria", "l2,talyor"], "unknown criterion 'talyor'"),
        (["compare", "folder.tflite/", "latest"], "cannot be read: Is a directory"),
        (["release", "show", "folder.tflite"], "cannot be read: Is a directory"),
    ],
)
def test_a_slip_is_one_error_with_a_remedy_before_any_work(
    arguments: list[str], told: str, tmp_path: Path, client_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.py").write_text("raise SystemExit('the recipe ran')")
    (tmp_path / "m.tflite").write_bytes(dense_tflite(np.ones((4, 4), np.float32)))
    (tmp_path / "text.tflite").write_text("hello\n")
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "folder.tflite").mkdir()
    before = sorted(tmp_path.iterdir())
    assert main([*arguments, *([] if arguments[0] == "targets" else ["--json"])]) == 1
    out, err = capsys.readouterr()
    message, _, remedy = err.partition("error: ")[2].partition("\n")
    assert told in message
    assert remedy.strip()
    assert "Traceback" not in err
    assert not out or json.loads(out)["error"]["message"] == message
    assert sorted(tmp_path.iterdir()) == before
