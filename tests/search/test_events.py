"""What a run tells while it works: typed, kept in a file, passed to a listener; and what is refused before anything begins."""

from __future__ import annotations

import json
import pickle
from importlib.metadata import PackageNotFoundError
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from points_task import points_task
from rich.console import Console

from edgeprune import Budget, Options
from edgeprune.cli import main
from edgeprune.errors import BudgetError, EdgepruneError, ExportError, InfeasibleBudgetError, InputError, ProfileError, TargetError
from edgeprune.profile import Profile, load
from edgeprune.report.progress import ProgressBars
from edgeprune.runs.events import (
    EVENTS,
    BudgetJudged,
    DeviceWaiting,
    EpochEnded,
    Event,
    EventFile,
    Noted,
    PhaseStarted,
    PlanMeasured,
    Progress,
    RunEnded,
    RunStarted,
    Unknown,
    Warned,
    read_events,
)
from edgeprune.search import prune
from edgeprune.search.request import RunRequest

OPTIONS = Options(engine="torchscript", formats=(), step=8, epochs=0.2, sensitivity=False)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def run(tmp_path: Path, **given: Any) -> Any:
    given = {"profile": "raspberry-pi-4", "budget": Budget(macs="50%"), "options": OPTIONS, "runs": tmp_path / "runs"} | given
    return prune(points_task(), **given)


def test_a_listener_gets_what_the_file_keeps(tmp_path: Path) -> None:
    heard: list[Event] = []
    result = run(tmp_path, listener=heard.append)
    kept = [event for _, event in read_events(result.run)]
    assert [event for event in kept if not isinstance(event, (Progress, RunStarted, RunEnded))] == [
        event for event in heard if not isinstance(event, (Progress, RunStarted, RunEnded))
    ]
    assert isinstance(kept[0], RunStarted)
    assert (kept[0].task, kept[0].profile, kept[0].resumed) == ("points", "raspberry-pi-4", False)
    assert isinstance(kept[-1], RunEnded)
    assert kept[-1].state == "done"
    assert [(event.kind, event.verdict) for event in heard if isinstance(event, BudgetJudged)] == [("macs", "met")]
    phases = [event.phase for event in kept if isinstance(event, PhaseStarted)]
    assert phases[0] == "analysing"
    assert phases.index("scoring") < phases.index("reconstructing") < phases.index("fine-tuning")
    assert any(isinstance(event, Progress) and event.loss is not None for event in heard)
    epochs = [event for event in heard if isinstance(event, EpochEnded)]
    assert [(event.stage, event.epoch, event.epochs) for event in epochs] == [("fine-tuning", 1, 1)]
    assert (epochs[-1].metric, epochs[-1].score) == ("accuracy", result.summary["pruned"]["metric"])
    assert epochs[-1].loss is not None
    log = (result.run / "log.txt").read_text()
    assert "analysing points" in log
    assert "fine-tuning: epoch 1 of 1, loss" in log
    assert "(loss" not in log  # progress is not logged


def test_a_result_is_short_in_a_shell_and_a_table_in_a_notebook(tmp_path: Path) -> None:
    result = run(tmp_path)
    assert "points on raspberry-pi-4" in repr(result)
    assert len(repr(result)) < 250
    assert "<table" in result._repr_html_()


def test_an_end_without_a_result_is_an_event(tmp_path: Path) -> None:
    with pytest.raises(InfeasibleBudgetError):
        run(tmp_path, budget=Budget(parameters="0.01%"))
    (folder,) = (tmp_path / "runs").iterdir()
    *_, (_, last) = read_events(folder)
    assert isinstance(last, RunEnded)
    assert last.state == "infeasible"
    assert last.error is not None


def test_a_damaged_line_costs_only_itself(tmp_path: Path) -> None:
    file = EventFile(tmp_path)
    events = [Noted("first"), PlanMeasured(1, {"latency": 1.0}, {"latency": 1.1}, 0.9), DeviceWaiting("pi5", "a bench")]
    file(events[0])
    with (tmp_path / EVENTS).open("a") as lines:
        lines.write('{"at": "2026-01-01T00:00:00Z", "event": "No')
        lines.write('\n[1]\n{"at": "2026-01-01T00:00:00Z", "event": "Dreamt", "of": "sheep"}\n')
        lines.write(json.dumps({"at": "2026-01-01T00:00:00Z", "event": "Noted", "message": "newer", "colour": "red"}) + "\n")
    file(events[1])
    file(events[2])
    found = [event for _, event in read_events(tmp_path)]
    assert found == [events[0], Unknown("Dreamt", {"of": "sheep"}), Noted("newer"), events[1], events[2]]
    assert "1.1 ms (predicted 1 ms)" in str(events[1].text)


def test_a_profile_is_loaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []

    def counted(name: str) -> Profile:
        loaded.append(name)
        return load(name)

    for module in ("preflight", "request", "job"):
        monkeypatch.setattr(f"edgeprune.search.{module}.load_profile", counted)
    run(tmp_path)
    assert loaded == ["raspberry-pi-4"]


def test_a_warning_is_told_from_a_note() -> None:
    console = Console(file=StringIO(), force_terminal=True)
    bars = ProgressBars(SimpleNamespace(console=console))
    bars(Noted("all is well"))
    bars(Warned("all is not"))
    note, warning = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert note == "all is well"
    assert "warning: all is not" in warning
    assert warning.startswith("\x1b[33m")


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ({"profile": "raspbery-pi-4"}, ProfileError, "raspberry-pi-4"),
        ({"profile": None}, TargetError, "neither a target nor a profile"),
        ({"target": "nowhere"}, TargetError, "unknown target 'nowhere'"),
        ({"budget": Budget()}, BudgetError, "no budget was given"),
        ({"options": Options(formats=("tflight",))}, ExportError, "tflite"),
        ({"options": Options(criterion="talyor")}, InputError, "taylor"),
        ({"options": Options(engine="tensorrt")}, InputError, "unknown engine"),
        ({"profile": "nrf5340", "target": "local:"}, TargetError, "microcontroller"),
        ({"profile": "nrf5340", "options": Options(engine="torchscript")}, InputError, "runs tflite-int8"),
    ],
)
def test_what_is_wrong_is_refused_before_a_run_begins(
    tmp_path: Path, given: dict[str, Any], kind: type[EdgepruneError], message: str
) -> None:
    with pytest.raises(kind) as raised:
        run(tmp_path, **given)
    assert message in f"{raised.value.message} {raised.value.remedy}"
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("command", "wrong"),
    [
        ("prune", ["--target", "nowhere", "--latency", "50%"]),
        ("prune", ["--profile", "raspberry-pi-9", "--latency", "50%"]),
        ("prune", ["--profile", "pixel-1", "--latency", "50%", "--criterion", "x"]),
        ("frontier", ["--target", "nowhere", "--levels", "50%"]),
        ("frontier", ["--profile", "raspberry-pi-9", "--levels", "50%"]),
        ("frontier", ["--profile", "pixel-1", "--levels", "50%", "--criterion", "x"]),
        ("sparsify", ["--sparsity", "85%", "--target", "nowhere"]),
        ("sparsify", ["--sparsity", "auto", "--target", "nowhere", "--latency", "50%"]),
        ("sparsify", ["--sparsity", "1%"]),
        ("compare-criteria", ["--criteria", "l2,x"]),
        ("compare-criteria", ["--share", "2"]),
    ],
)
def test_the_recipe_is_loaded_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, wrong: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([command, str(raising_recipe(tmp_path)), *wrong]) == 1
    said = capsys.readouterr().err
    assert any(reason in said for reason in ("unknown", "too low", "not all between"))
    assert not (tmp_path / "runs").exists()


def test_without_tflite_micro_no_microcontroller_is_pruned_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("edgeprune.micro.arena.version", absent)
    assert main(["prune", str(raising_recipe(tmp_path)), "--profile", "nrf5340", "--size", "9kB"]) == 1
    assert "pip install 'edgeprune[micro]'" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def raising_recipe(folder: Path) -> Path:
    """A recipe that says so when it is loaded."""
    path = folder / "recipe.py"
    path.write_text("raise RuntimeError('the recipe was loaded')\n")
    return path


def test_a_request_travels_and_knows_what_it_is_of() -> None:
    request = RunRequest(points_task(), Budget(latency="50%"), profile="raspberry-pi-4")
    again = pickle.loads(pickle.dumps(request))
    assert again.fingerprint == request.fingerprint
    assert request.with_budget(Budget(latency="40%")).fingerprint["budget"]["latency"] == "40%"
    assert request.with_budget(Budget(latency="50%")).fingerprint == request.fingerprint
