"""What a run says of itself: what it is of, how it ended, and that another job does not go on with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from points_task import points_task

from edgeprune import Budget, prune
from edgeprune.errors import (
    ConverterError,
    GateError,
    InfeasibleBudgetError,
    NothingToPruneError,
    ParityError,
    RecipeError,
    RunError,
    TrainingError,
    TrainingStoppedError,
    UnreachableError,
    may_succeed,
)
from edgeprune.release.build.limits import describe, judge, parse_gates
from edgeprune.report.summary import verdicts
from edgeprune.runs.finished import read_run
from edgeprune.search import Options
from edgeprune.task import Task, accuracy

OPTIONS = Options(engine="torchscript", formats=(), step=4, epochs=1)
PROFILE = "raspberry-pi-4"
HALF = Budget(macs="50%")


def said(folder: Path) -> dict[str, object]:
    (path,) = folder.iterdir()
    return json.loads((path / "run.json").read_text())


class Fixed(torch.nn.Module):
    """Nothing of it can be removed: every channel is an output."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x)


def test_only_what_may_succeed_is_advised_to_be_continued(tmp_path: Path) -> None:
    def stopped(model: object) -> float:
        raise KeyboardInterrupt

    task = points_task()
    task.evaluate = stopped
    for recipe, advice in ((None, "edgeprune.prune(..., resume='{}')"), ("recipe.py", "edgeprune prune --resume {}")):
        folder = tmp_path / str(recipe)
        with pytest.raises(KeyboardInterrupt) as ended:
            prune(task, profile=PROFILE, budget=HALF, options=OPTIONS, runs=folder, recipe=recipe)
        (path,) = folder.iterdir()
        assert ended.value.__notes__ == [f"The run is kept in {path}. Continue with: {advice.format(path)}"]
    with pytest.raises(RunError, match="other settings: budget differ") as other:
        prune(points_task(), profile=PROFILE, budget=Budget(macs="40%"), options=OPTIONS, resume=path, recipe="recipe.py")
    assert not getattr(other.value, "__notes__", [])
    fixed, lossless = Task(Fixed(), (torch.zeros(1, 8),), name="fixed"), points_task()
    lossless.loss = lambda outputs, targets: outputs.sum() * float("nan")
    for name, task, kind in (("fixed", fixed, NothingToPruneError), ("lossless", lossless, TrainingError)):
        with pytest.raises(kind) as again:
            prune(task, profile=PROFILE, budget=HALF, options=OPTIONS, runs=tmp_path / name)
        (path,) = (tmp_path / name).iterdir()
        assert again.value.__notes__ == [f"The run is kept in {path}."]


@pytest.mark.parametrize(
    ("error", "may"),
    [
        (UnreachableError("no answer"), True),
        (ConverterError("it was ended"), True),
        (TrainingStoppedError("a rank was ended"), True),
        (OSError(28, "no space left"), True),
        (KeyboardInterrupt(), True),
        (ParityError("another output"), False),
        (TrainingError("the loss became nan"), False),
        (InfeasibleBudgetError("out of reach"), False),
        (KeyError("a fault"), False),
    ],
)
def test_what_happens_again_is_told_from_what_may_pass(error: BaseException, may: bool) -> None:
    assert may_succeed(error) == may


def test_a_run_of_another_model_is_not_gone_on_with(tmp_path: Path) -> None:
    result = prune(points_task(), profile=PROFILE, budget=HALF, options=OPTIONS, runs=tmp_path)
    again = prune(points_task(), profile=PROFILE, budget=HALF, options=OPTIONS, resume=result.run)
    assert again.summary["pruned"]["metric"] == result.summary["pruned"]["metric"]
    other = points_task()
    with torch.no_grad():
        next(other.model.parameters()).mul_(1.5)
    with pytest.raises(RunError, match="other settings: model differ"):
        prune(other, profile=PROFILE, budget=HALF, options=OPTIONS, resume=result.run)
    slower = points_task()
    slower.learning_rate *= 2
    with pytest.raises(RunError, match="other settings: settings differ"):
        prune(slower, profile=PROFILE, budget=HALF, options=OPTIONS, resume=result.run)
    assert said(tmp_path)["state"] == "done"


def test_a_run_says_how_it_ended(tmp_path: Path) -> None:
    with pytest.raises(InfeasibleBudgetError):
        prune(points_task(), profile=PROFILE, budget=Budget(macs="0.001%"), options=OPTIONS, runs=tmp_path / "a")
    assert said(tmp_path / "a")["state"] == "infeasible"
    assert "cannot be reached" in str(said(tmp_path / "a")["error"])
    task = points_task()
    task.evaluate = lambda model: float("nan")
    with pytest.raises(TrainingError):
        prune(task, profile=PROFILE, budget=HALF, options=OPTIONS, runs=tmp_path / "b")
    assert said(tmp_path / "b")["state"] == "failed"

    def stopped(model: object) -> float:
        raise KeyboardInterrupt

    task.evaluate = stopped
    with pytest.raises(KeyboardInterrupt):
        prune(task, profile=PROFILE, budget=HALF, options=OPTIONS, runs=tmp_path / "c")
    assert said(tmp_path / "c")["state"] == "interrupted"
    (path,) = (tmp_path / "c").iterdir()
    task.evaluate = None
    assert prune(task, profile=PROFILE, budget=HALF, options=OPTIONS, resume=path).met
    assert (said(tmp_path / "c")["state"], said(tmp_path / "c")["error"]) == ("done", None)


@pytest.mark.parametrize("text", ["", "[]", '{"inputs": 5}', "not JSON"])
def test_a_damaged_run_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(RunError, match=r"run\.json"):
        prune(points_task(), profile=PROFILE, budget=HALF, options=OPTIONS, resume=tmp_path)


@pytest.mark.parametrize(("drop", "met"), [(3.0, True), (1.0, False)])
def test_of_an_error_less_is_better(drop: float, met: bool, tmp_path: Path) -> None:
    task = points_task()
    task.evaluate = lambda model: 1.0 if model is task.model else 3.0
    task.metric_name, task.higher_is_better = "error", False
    result = prune(task, profile=PROFILE, budget=Budget(macs="60%", max_drop=drop), options=OPTIONS, runs=tmp_path)
    assert result.met == met
    assert verdicts(result.summary)[-1].value == "2"
    if not met:
        with pytest.raises(GateError, match="max_drop 1"):
            read_run(result.run)


def test_a_gate_on_an_error_is_an_upper_limit() -> None:
    (wanted,) = parse_gates(["error:2.5"])
    gate = judge(wanted, "all", 10, None, "error", 2.0, 1.0, higher_is_better=False)
    assert describe(gate) == "error at most 2.5"
    with pytest.raises(GateError, match=r"error 3, at most 2\.5"):
        judge(wanted, "all", 10, None, "error", 3.0, 1.0, higher_is_better=False)


def test_accuracy_refuses_what_is_not_a_classification() -> None:
    assert accuracy(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([1, 1])) == 50.0
    with pytest.raises(RecipeError, match=r"not float32 \(4, 1\) and float32 \(4, 1\)"):
        accuracy(torch.zeros(4, 1), torch.zeros(4, 1))
    with pytest.raises(RecipeError, match="metric of its own"):
        accuracy(torch.zeros(4, 3, 8, 8), torch.zeros(4, 8, 8, dtype=torch.int64))


def test_options_without_an_effect_are_reported(tmp_path: Path) -> None:
    class Notes:
        def __init__(self) -> None:
            self.lines: list[str] = []

        def progress(self, stage: str, done: int, total: int) -> None: ...

        def note(self, text: str) -> None:
            self.lines.append(text)

    full, notes = points_task(), Notes()
    task = Task(full.model, full.example_inputs, metric_name="mse", validation=full.validation, name="bare")
    options = Options(engine="torchscript", formats=(), step=4, epochs=3, schedule="iterative")
    prune(task, profile=PROFILE, budget=Budget(macs="50%", parameters="10G"), options=options, runs=tmp_path, listener=notes)
    text = "\n".join(notes.lines)
    assert "has no training data: the options epochs, schedule have no effect" in text
    assert "set higher_is_better=False" in text
    assert "the parameters budget limits nothing" in text
