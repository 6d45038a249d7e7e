"""Sweeps over a limit, the fastest model above a floor, and trials that later runs reuse."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from measured import MEASURED
from points_task import points_task

from edgeprune import Budget, prune
from edgeprune.cli import main
from edgeprune.errors import BudgetError, InfeasibleBudgetError, InputError, RunError
from edgeprune.report.frontier import cells
from edgeprune.runs.directory import RunDirectory
from edgeprune.runs.document import read_inputs
from edgeprune.runs.summary import RunSummary
from edgeprune.runs.sweep import pareto
from edgeprune.search import Options, Point, frontier
from edgeprune.search.measure.archive import Archive
from edgeprune.search.measure.paired import PairedMeasurement

OPTIONS = Options(engine="torchscript", formats=(), step=4, epochs=2)
WIDE = Options(engine="torchscript", formats=(), step=64, epochs=2)
PROFILE = "raspberry-pi-4"


def test_a_sweep_prunes_to_every_level_marks_the_front_and_continues(tmp_path: Path) -> None:
    levels = ["70%", "30%", "0.0001%"]
    found = frontier(points_task(), profile=PROFILE, kind="macs", levels=levels, options=OPTIONS, runs=tmp_path)
    reached, narrow, beyond = found.points
    assert narrow.figure("macs") <= 0.3 * narrow.summary["dense"]["macs"] < reached.figure("macs") <= 0.7 * reached.summary["dense"]["macs"]  # type: ignore[index]
    assert beyond.summary is None
    assert "cannot be reached" in str(beyond.error)
    assert narrow.best
    assert not beyond.best
    assert reached.best == (reached.loss < narrow.loss)
    written = json.loads((found.folder / "frontier.json").read_text())
    assert [point["level"] for point in written["points"]] == levels
    page = (found.folder / "frontier.html").read_text()
    assert "<svg" in page
    assert "out of reach" in page
    again = frontier(points_task(), profile=PROFILE, kind="macs", levels=levels, options=OPTIONS, resume=found.folder)
    assert [point.summary for point in again.points] == [point.summary for point in found.points]


def test_runs_of_a_sweep_share_what_does_not_depend_on_the_level(tmp_path: Path) -> None:
    found = frontier(points_task(), profile=PROFILE, kind="macs", levels=["60%", "40%"], options=OPTIONS, runs=tmp_path)
    first, second = ((point.run / "measurements.jsonl").read_text().splitlines() for point in found.points)
    values = [next(line for line in lines if json.loads(line)["key"] == "value-0-sensitivity") for lines in (first, second)]
    assert json.loads(values[0])["value"] == json.loads(values[1])["value"]
    assert "scoring channels" in (found.points[0].run / "log.txt").read_text()
    assert "scoring channels" not in (found.points[1].run / "log.txt").read_text()


def test_a_sweep_of_another_job_or_of_nothing_is_refused(tmp_path: Path) -> None:
    task = points_task()
    with pytest.raises(InputError, match="unknown kind"):
        frontier(task, profile=PROFILE, kind="speed", runs=tmp_path)
    with pytest.raises(BudgetError, match="no unit"):
        frontier(task, profile=PROFILE, levels=["50%", "40"], runs=tmp_path)
    assert not list(tmp_path.iterdir())
    found = frontier(task, profile=PROFILE, kind="macs", levels=["0.0001%"], options=OPTIONS, runs=tmp_path)
    with pytest.raises(RunError, match="other settings"):
        frontier(task, profile=PROFILE, kind="macs", levels=["50%"], options=OPTIONS, resume=found.folder)
    task.validation = None
    with pytest.raises(InputError, match="cannot be scored"):
        frontier(task, profile=PROFILE, runs=tmp_path)


def summary_of(macs: float, metric: float, **more: Any) -> RunSummary:
    values = {"latency_ms": 1.0, "peak_bytes": 10, "energy_mj": 1.0, "file_bytes": 10, "parameters": 5}
    models = {"pruned": values | {"macs": macs, "metric": metric}, "dense": values | {"macs": 100, "metric": 95.0}}
    return RunSummary.of({"budget": {"macs": {"met": True}}, "metric_name": "accuracy", "measured": True} | models | more)


def test_the_front_is_what_no_other_point_beats() -> None:
    given = {"a": (70, 92), "b": (50, 93), "c": (30, 90), "d": (30, 90)}
    for better, front in ((True, [False, True, True, True, False]), (False, [False, False, True, True, False])):
        points = [Point(level, Path(level), summary_of(*figures, higher_is_better=better)) for level, figures in given.items()]
        points.append(Point("e", Path("e"), None, "no"))
        assert [one.best for one in pareto(points, "macs")] == front


def test_a_point_that_misses_another_limit_is_reported_and_in_no_front() -> None:
    over = Point("30%", Path("x"), summary_of(30, 94, budget={"macs": {"met": True}, "memory": {"met": False}}))
    points = pareto([over, Point("50%", Path("y"), summary_of(50, 93))], "macs")
    assert [(one.best, one.missed) for one in points] == [(False, ["memory"]), (True, [])]
    rows = cells(points, "macs")
    assert [row[-1] for row in rows[1:]] == ["misses memory", "yes"]
    assert [row[:2] for row in rows] == [["dense", "100 %"], ["30%", "30.0 %"], ["50%", "50.0 %"]]


def test_a_limit_of_what_is_swept_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="macs is both limited to 40% and swept"):
        frontier(points_task(), profile=PROFILE, kind="macs", budget=Budget(macs="40%"), runs=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_floor_alone_finds_a_fast_model_above_it(tmp_path: Path) -> None:
    task = points_task(512)
    result = prune(task, profile=PROFILE, budget=Budget(max_drop=5.0), options=WIDE, runs=tmp_path)
    summary = result.summary
    assert result.met
    assert summary["dense"]["metric"] - summary["pruned"]["metric"] <= 5.0
    (folder,) = tmp_path.iterdir()
    runs = [json.loads((path / "run.json").read_text()).get("result") for path in folder.iterdir() if path.is_dir()]
    met = [run["pruned"]["latency_ms"] for run in runs if run is not None and run["budget"]["max_drop"]["met"]]
    assert summary["pruned"]["latency_ms"] == min(met)
    assert 1 < len(runs) <= 5
    said = json.loads((folder / "run.json").read_text())
    assert said["state"] == "done"
    assert (folder / said["best"]).samefile(result.run)  # what a release is built from


def test_a_floor_that_no_model_reaches_says_what_was_tried(tmp_path: Path) -> None:
    task = points_task(512)
    task.evaluate = lambda model: 100.0 if model is task.model else 50.0
    with pytest.raises(InfeasibleBudgetError, match=r"within 1: tried \+50"):
        prune(task, profile=PROFILE, budget=Budget(max_drop=1.0), options=replace(WIDE, epochs=0.1), runs=tmp_path)


def test_trials_outlive_their_run_and_damage_costs_only_what_it_saved(tmp_path: Path) -> None:
    def trial(ratio: float) -> PairedMeasurement:
        return PairedMeasurement(ratio, ratio - 0.01, ratio + 0.01, MEASURED, MEASURED)

    path = tmp_path / "trials" / "one.jsonl"
    archive = Archive(path)
    archive.add({"a": 8, "b": 4}, trial(0.5))
    archive.add({"a": 4, "b": 4}, trial(0.25))
    with open(path, "a") as file:
        file.write('{"widths": {"a"')
    later = Archive(path)
    assert later.find({"b": 4, "a": 8}) == trial(0.5)
    assert later.find({"a": 8, "b": 8}) is None
    assert [(widths, ratio) for widths, ratio, _ in later.observed()] == [({"a": 8, "b": 4}, 0.5), ({"a": 4, "b": 4}, 0.25)]
    blocked = Archive(tmp_path / "trials" / "one.jsonl" / "below")
    blocked.add({"a": 8}, trial(0.5))  # cannot be written: this run still knows it
    assert blocked.find({"a": 8}) == trial(0.5)


def test_the_command_says_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["frontier", "--help"]) == 0
    assert "Pareto front" in capsys.readouterr().out
    assert main(["frontier", "recipe.py", "--levels", "50%"]) == 1
    assert "--target" in capsys.readouterr().err


def test_an_interrupted_sweep_names_the_folder_to_continue_with(tmp_path: Path) -> None:
    def stopped(model: object) -> float:
        raise KeyboardInterrupt

    task = points_task()
    task.evaluate = stopped
    with pytest.raises(KeyboardInterrupt) as floor:
        prune(task, profile=PROFILE, budget=Budget(max_drop=1.0), options=OPTIONS, runs=tmp_path / "floor", recipe="recipe.py")
    (folder,) = (tmp_path / "floor").iterdir()
    assert f"edgeprune prune --resume {folder}" in floor.value.__notes__[0].split("Continue with: ")[1].splitlines()
    with pytest.raises(KeyboardInterrupt) as front:
        frontier(task, profile=PROFILE, kind="macs", options=OPTIONS, runs=tmp_path / "front")
    (folder,) = (tmp_path / "front").iterdir()
    assert front.value.__notes__[0].endswith(f"Continue with: edgeprune.search.frontier(..., resume={str(folder)!r})")


def test_a_sweep_says_when_it_is_done_and_is_not_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = frontier(points_task(), profile=PROFILE, kind="macs", levels=["60%"], options=OPTIONS, runs=tmp_path, recipe="recipe.py")
    assert json.loads((found.folder / "run.json").read_text())["state"] == "done"
    assert main(["prune", "--resume", str(found.folder)]) == 2
    assert "edgeprune frontier --resume" in capsys.readouterr().err


def test_runs_started_in_one_second_have_folders_of_their_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda _: RunDirectory.create(tmp_path, "run"), range(8)))
    assert len({run.path for run in runs}) == 8
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "run.json").write_text("[]")
    with pytest.raises(RunError, match=r"run\.json is damaged"):
        read_inputs(tmp_path / "odd")


def test_limits_that_are_not_texts_and_drops_that_are_not_numbers_are_refused() -> None:
    for wrong in ({"latency": 15}, {"size": 0.5}, {"max_drop": "1"}, {"max_drop": float("inf")}):
        with pytest.raises(BudgetError):
            Budget(**wrong)  # type: ignore[arg-type]


def test_what_is_counted_is_whole(tmp_path: Path) -> None:
    result = prune(points_task(), profile=PROFILE, budget=Budget(parameters="50%"), options=OPTIONS, runs=tmp_path)
    pruned = result.summary["pruned"]
    assert pruned["parameters"] == sum(value.numel() for value in result.model.parameters())
    assert pruned["macs"] == round(pruned["macs"])
