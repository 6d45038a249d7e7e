"""The choice among objectives: every one's plan is compared, the nearest to the dense model is followed, and the report says why."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakSet

import pytest
import torch
from points_task import points_task

from edgeprune import Budget, Options, Task
from edgeprune.errors import InputError, RunError, TrainingError
from edgeprune.export.options import ExportOptions
from edgeprune.graph import analyze
from edgeprune.importance import score
from edgeprune.runs.events import ObjectiveChosen, read_events
from edgeprune.search import Result, prune
from edgeprune.search.candidate import CandidateSettings, ExportSettings
from edgeprune.search.judge import HELD_OUT, USED, PlanJudge, held_out
from edgeprune.search.plan.objective import OBJECTIVES
from edgeprune.surgery import Plan, plan_from_saliency

OPTIONS = Options(engine="torchscript", formats=(), step=8, epochs=0.2)
GIVEN = {"profile": "raspberry-pi-4", "budget": Budget(macs="40%")}


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def pruned(tmp_path: Path, task: Task | None = None, **options: Any) -> Result:
    return prune(task or points_task(), options=replace(OPTIONS, **options), runs=tmp_path, **GIVEN)  # type: ignore[arg-type]


def widths_of(result: Result) -> list[int]:
    return [group.kept for group in result.figures.groups]


def test_the_plan_nearest_to_the_dense_model_is_followed_and_shown(tmp_path: Path) -> None:
    result = pruned(tmp_path)
    compared = result.figures.objectives
    assert [one.name for one in compared] == list(OBJECTIVES)
    best = min(compared, key=lambda one: one.divergence)
    assert [one.name for one in compared if one.chosen] == [best.name]
    assert max(one.divergence for one in compared) > best.divergence > 0
    alone = pruned(tmp_path, objective=best.name)
    assert widths_of(alone) == widths_of(result)
    assert alone.figures.objectives == []
    told = [event for _, event in read_events(result.run) if isinstance(event, ObjectiveChosen)]
    assert told == [ObjectiveChosen(best.name, {one.name: one.divergence for one in compared})]
    page = (result.run / "report.html").read_text()
    assert "Choice among plans" in page
    assert f"{best.divergence:.3g}" in page
    assert "Choice among plans" not in (alone.run / "report.html").read_text()


def test_each_objective_makes_a_plan_of_its_own_kind(tmp_path: Path) -> None:
    kept = {name: widths_of(pruned(tmp_path, objective=name, epochs=0.0)) for name in OBJECTIVES}
    assert abs(kept["uniform"][0] - kept["uniform"][1]) <= 8, "two groups of one size: within a step of each other"
    assert len({tuple(widths) for widths in kept.values()}) > 1


def test_plans_that_are_about_equally_good_are_raced_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeprune.search.selection.NEAR", 1e9)
    result = pruned(tmp_path, race=True)
    compared = result.figures.objectives
    best = min(compared, key=lambda one: one.raced if one.raced is not None else 1e9)
    assert best.chosen
    assert all(one.raced is not None and one.raced != one.divergence for one in compared)
    assert "after a short training" in (result.run / "report.html").read_text()


def test_a_resumed_run_compares_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("edgeprune.search.job.Job._make_tuned", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pruned(tmp_path)
    monkeypatch.setattr(PlanJudge, "divergence", interrupted)
    run = next(tmp_path.glob("points-*"))
    result = prune(points_task(), options=OPTIONS, resume=run, **GIVEN)  # type: ignore[arg-type]
    assert [one.name for one in result.figures.objectives] == list(OBJECTIVES)


def test_answers_that_are_no_numbers_are_the_worst(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest, seen = PlanJudge.divergence, list[int]()
    monkeypatch.setattr(PlanJudge, "divergence", lambda *given: (seen.append(1), math.nan if len(seen) == 1 else honest(*given))[1])
    first, *others = pruned(tmp_path, race=True).figures.objectives
    assert math.isnan(first.divergence)
    assert not first.chosen
    assert any(one.chosen for one in others)


def test_a_plan_that_does_not_train_loses_the_race_and_not_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest, raced = PlanJudge.divergence, list[int]()

    def divergence(self: PlanJudge, plan: Plan, steps: int = 0) -> float:
        if steps and not raced.append(1) and len(raced) == 1:
            raise TrainingError("the loss of points became nan at step 3")
        return honest(self, plan, steps)

    monkeypatch.setattr("edgeprune.search.selection.NEAR", 1e9)
    monkeypatch.setattr(PlanJudge, "divergence", divergence)
    result = pruned(tmp_path, race=True)
    first, *others = result.figures.objectives
    assert first.raced == math.inf
    assert not first.chosen
    assert any(one.chosen for one in others)
    assert "does not train: the loss of points became nan" in (result.run / "log.txt").read_text()


def test_nothing_is_raced_in_a_run_that_trains_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeprune.search.selection.NEAR", 1e9)
    assert {one.raced for one in pruned(tmp_path, race=True, epochs=0.0).figures.objectives} == {None}


def test_what_is_switched_off_is_not_measured_from_scratch_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("sensitivities are measured")

    monkeypatch.setattr("edgeprune.search.plan.objective.importance_curves", refused)
    pruned(tmp_path, training="scratch", sensitivity=False)


def test_a_run_of_a_version_without_objectives_is_continued(tmp_path: Path) -> None:
    run = pruned(tmp_path, epochs=0.0).run
    document = json.loads((run / "run.json").read_text())
    for name in ("objective", "race"):
        del document["inputs"]["options"][name]
    (run / "run.json").write_text(json.dumps(document))
    (run / "measurements.jsonl").unlink()
    options = replace(OPTIONS, epochs=0.0)
    assert prune(points_task(), options=options, resume=run, **GIVEN).figures.objectives  # type: ignore[arg-type]
    with pytest.raises(RunError, match="options differ"):
        prune(points_task(), options=replace(options, objective="uniform"), resume=run, **GIVEN)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"reconstruction": False}, [name for name in OBJECTIVES if name != "reconstructed"]),
        ({"sensitivity": False}, []),
        ({"training": "scratch"}, []),
        ({"objective": "importance", "criterion": "l1"}, []),
    ],
)
def test_options_say_what_is_compared(tmp_path: Path, options: dict[str, Any], names: list[str]) -> None:
    assert [one.name for one in pruned(tmp_path, **options).figures.objectives] == names


def test_a_model_without_data_is_pruned_by_the_prior(tmp_path: Path) -> None:
    assert pruned(tmp_path, replace(points_task(), train=None)).figures.objectives == []


def test_an_objective_that_is_unknown_or_switched_off_is_refused() -> None:
    with pytest.raises(InputError, match="unknown objective 'sensitivty'") as told:
        Options(objective="sensitivty")
    assert "sensitivity" in str(told.value.remedy)
    with pytest.raises(InputError, match="sensitivity is switched off"):
        Options(objective="reconstructed", sensitivity=False)
    for given in ({"objective": "uniform"}, {"race": True}):
        with pytest.raises(InputError, match="online pruning"):
            Options(schedule="online", **given)  # type: ignore[arg-type]


def test_plans_are_compared_on_batches_that_nothing_else_has_used() -> None:
    task = points_task()
    task = replace(task, train=[*task.train, *task.validation])  # type: ignore[misc]
    batches = list(task.batches("train"))
    assert len(batches) > USED
    assert [batch.leaves[0].data_ptr() for batch in held_out(task)] == [batch.leaves[0].data_ptr() for batch in batches[USED:]]
    few = replace(task, train=task.train[:3])  # type: ignore[index]
    assert len(held_out(few)) == 3, "what there is, where there is no more"


def test_batches_before_those_that_plans_are_compared_on_are_not_kept() -> None:
    alive: WeakSet[torch.Tensor] = WeakSet()
    most = 0

    class Fresh:
        def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            nonlocal most
            for _ in range(USED + HELD_OUT + 3):
                inputs = torch.zeros(2, 8)
                alive.add(inputs)
                most = max(most, len(alive))
                yield inputs, torch.zeros(2, dtype=torch.int64)
                del inputs

    assert len(held_out(replace(points_task(), train=Fresh()))) == HELD_OUT
    assert most <= HELD_OUT + 3, "those that are kept, and what loops hold"


def test_a_narrower_plan_diverges_more() -> None:
    task = points_task()
    analysis = analyze(task.model, task.example_inputs)
    settings = CandidateSettings(ExportSettings(ExportOptions(), Budget()), "compared", reconstruct=True)
    judge, saliency = PlanJudge(task, task.model, analysis, settings), score(task, analysis, "l2")
    whole, half, little = (
        judge.divergence(plan_from_saliency(analysis, saliency, {group.name: width for group in analysis.groups})) for width in (48, 16, 4)
    )
    assert whole == pytest.approx(0.0, abs=1e-6)
    assert whole < half < little
