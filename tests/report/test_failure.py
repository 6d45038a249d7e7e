"""Runs that end without a result have a page too; what a finished run's page says of how it came about; and both written again."""

from __future__ import annotations

import json
import re
import shlex
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from points_task import points_task

from edgeprune import Budget, Options
from edgeprune.cli import main
from edgeprune.errors import EdgepruneError, InfeasibleBudgetError
from edgeprune.report.failure import failure_page
from edgeprune.runs.events import EventFile, Noted, PlanMeasured, RunEnded
from edgeprune.search import prune
from edgeprune.search.details import command_of

OPTIONS = Options(engine="torchscript", formats=("torchscript",), step=8, epochs=0.2, sensitivity=False)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def run(tmp_path: Path, **given: Any) -> Any:
    given = {"profile": "raspberry-pi-4", "budget": Budget(macs="50%"), "options": OPTIONS, "runs": tmp_path / "runs"} | given
    return prune(points_task(), **given)


def words(page: str) -> str:
    return " ".join(unescape(re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL)).split())


def test_an_infeasible_budget_leaves_a_page_that_says_what_binds_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InfeasibleBudgetError) as raised:
        run(tmp_path, budget=Budget(parameters="0.01%"))
    (folder,) = (tmp_path / "runs").iterdir()
    text = words((folder / "report.html").read_text())
    assert "The budget cannot be reached" in text
    assert " ".join(raised.value.message.split()) in text
    assert f"What to do: {raised.value.remedy}" in text
    assert "parameters at most 0.01%" in text
    assert "analysing points" in text
    assert "Continue with" not in text, "the same job cannot succeed"


def test_a_failure_says_how_it_is_continued_and_a_finished_run_replaces_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(
            "edgeprune.search.candidate.finetune", lambda *args, **named: (_ for _ in ()).throw(EdgepruneError("<the disk> broke"))
        )
        with pytest.raises(EdgepruneError):
            run(tmp_path)
    (folder,) = (tmp_path / "runs").iterdir()
    page = (folder / "report.html").read_text()
    assert "The run failed" in page
    assert "&lt;the disk&gt; broke" in page
    assert "Continue with" in page
    run(tmp_path, resume=folder)
    text = words((folder / "report.html").read_text())
    assert "Every budget is met" in text
    assert "The run failed" not in text
    assert "Where the latency goes predicted, not measured" in text
    assert "What was cut" in text


def test_what_was_measured_before_an_end_is_told(tmp_path: Path) -> None:
    tell = EventFile(tmp_path)
    for event in (Noted("computing"), PlanMeasured(0, {"latency": 2.0}, {"latency": 1.5}, 1.5), RunEnded("infeasible", 3.0, "no")):
        tell(event)
    (tmp_path / "run.json").write_text(json.dumps({"state": "infeasible", "error": "too slow\nTake another.", "inputs": {"task": "t"}}))
    text = words(failure_page(tmp_path))
    assert "the narrowest latency 2 ms 1.5 ms 150.0 %" in text
    assert "What to do: Take another." in text
    assert "ended after 3 s" in text


def test_report_writes_both_kinds_of_page_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(tmp_path)
    page = result.run / "report.html"
    before = page.read_text()
    page.unlink()
    assert main(["report", str(result.run)]) == 0
    assert page.read_text() == before
    document = json.loads((result.run / "run.json").read_text())
    (result.run / "run.json").write_text(json.dumps(document | {"result": None, "state": "interrupted"}))
    assert main(["report", str(result.run)]) == 0
    assert "The run was interrupted" in page.read_text()
    capsys.readouterr()
    assert main(["report", str(tmp_path)]) != 0
    assert "is not a run directory" in " ".join(capsys.readouterr().err.split())


def test_the_layers_add_up_to_what_is_predicted(tmp_path: Path) -> None:
    figures = run(tmp_path).figures
    assert figures.layers
    for one in figures.layers:
        assert one.latency_ms[1] <= one.latency_ms[0]
        assert one.macs[1] <= one.macs[0]
    assert sum(one.macs[0] for one in figures.layers) == figures.dense.macs
    assert sum(one.macs[1] for one in figures.layers) == figures.pruned.macs
    assert sum(one.latency_ms[1] for one in figures.layers) <= figures.pruned.latency_ms
    assert not figures.layers_measured


def test_the_command_of_a_run_is_what_was_typed_and_nothing_else() -> None:
    inputs = {
        "budget": {"latency": "50%", "memory": None, "max_drop": 1.0},
        "options": {"seed": 3, "sensitivity": False, "race": True, "epochs": 2.0, "precision": ["int8", "fp32"], "measurements": 8},
        "target": "pi5",
        "profile": None,
        "recipe": "my recipes/a.py",
    }
    typed = "edgeprune prune 'my recipes/a.py' --target pi5 --latency 50% --max-drop 1.0 --seed 3 --no-sensitivity --race --epochs 2"
    assert shlex.split(command_of(inputs)) == shlex.split(f"{typed} --precision int8,fp32")
    assert command_of(inputs | {"recipe": None}).startswith("edgeprune.prune(task, ...)")
