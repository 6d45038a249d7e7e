"""Gates that learn while a model trains, and the schedule that shrinks it with them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from points_task import Points, points_task
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from edgeprune import Budget, Task, prune
from edgeprune.cost.prior import PriorTimes
from edgeprune.errors import BudgetError, ExportError, InputError, RecipeError, TrainingError
from edgeprune.graph import analyze
from edgeprune.profile import load
from edgeprune.runs.events import Noted
from edgeprune.search import Options
from edgeprune.search.events import EventStream
from edgeprune.search.online import prices
from edgeprune.search.plan.planner import Planner, all_choices
from edgeprune.search.preflight import check_task
from edgeprune.search.request import RunRequest
from edgeprune.surgery import Plan, Pruned, apply, outputs_of, plan_from_saliency
from edgeprune.testing.networks import Gated, OptionA, Shuffle, awake
from edgeprune.tuning import initialized
from edgeprune.tuning.gates import GatedModel

IMAGES = (torch.zeros(1, 3, 8, 8),)
MACS = Budget(macs="40%")


def gated_half(network: nn.Module, target: float = 0.5, price: float = 1.0) -> tuple[GatedModel, Pruned]:
    analysis = analyze(network, IMAGES)
    saliency = {group.name: np.random.default_rng(0).random(group.rows.shape) for group in analysis.groups}
    plan = plan_from_saliency(analysis, saliency, {group.name: max(1, group.size * 3 // 4) for group in analysis.groups})
    pruned = apply(network, analysis, plan)
    return GatedModel(pruned, analysis, {group.name: price for group in analysis.groups}, target, 10, 0.1), pruned


@pytest.mark.parametrize("network", [OptionA, Shuffle, Gated])
def test_a_closed_gate_is_the_channel_removed(network: type[nn.Module]) -> None:
    """In every network, after a first cut: closing gates computes what a second cut of those channels computes."""
    model = awake(network())
    analysis = analyze(model, IMAGES)
    whole = apply(model, analysis, Plan(analysis.fingerprint, {}))
    gated = GatedModel(whole, analysis, {group.name: 1.0 for group in analysis.groups}, 0.5, 10, 0.1).eval()
    inputs = (torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)),)
    torch.testing.assert_close(gated(*inputs), outputs_of(model, inputs)[0])
    group = analysis.groups[0]
    with torch.no_grad():
        gated.gates[torch.from_numpy(group.rows[:, 0])] = 0.0
    plan = Plan(analysis.fingerprint, {group.name: tuple(tuple(range(1, group.size)) for _ in group.rows)})
    torch.testing.assert_close(gated(*inputs), outputs_of(apply(model, analysis, plan).model, inputs)[0], rtol=1e-4, atol=1e-5)


def test_folding_changes_nothing_that_is_computed() -> None:
    gated, pruned = gated_half(awake(OptionA()))
    with torch.no_grad():
        gated.gates.uniform_(0.2, 1.5)
    inputs = torch.randn(4, 3, 8, 8)
    before = gated.eval()(inputs)
    gated.fold()
    torch.testing.assert_close(pruned.model.eval()(inputs), before)
    assert bool((gated.gates == 1).all())


def test_the_penalty_closes_gates_only_while_the_model_costs_too_much() -> None:
    for target, pushed in ((0.5, True), (1.5, False)):
        gated, _ = gated_half(awake(OptionA()), target)
        (gated(torch.randn(4, 3, 8, 8)) * 0.0).sum().backward()
        assert gated.gates.grad is not None
        assert bool((gated.gates.grad > 0).any()) is pushed


def test_gone_channels_count_less_than_any_that_stay() -> None:
    gated, pruned = gated_half(awake(OptionA()))
    gated(torch.randn(4, 3, 8, 8)).square().sum().backward()
    for name, values in gated.saliency().items():
        kept = np.zeros(values.shape, bool)
        for row, places in zip(kept, pruned.plan.kept[name], strict=True):
            row[list(places)] = True
        assert (values[~kept] < 0).all()
        assert (values[kept] >= 0).all()
    assert any(values.max() > 0 for values in gated.saliency().values())


def test_a_channel_that_costs_nothing_is_not_taken_for_a_gone_one() -> None:
    """A group at its narrowest has no price: its live channels once counted no more than those that were gone, and were exchanged."""
    gated, pruned = gated_half(awake(OptionA()), price=0.0)
    gated(torch.randn(4, 3, 8, 8)).square().sum().backward()
    for name, values in gated.saliency().items():
        for row, places in zip(values, pruned.plan.kept[name], strict=True):
            assert row[list(places)].min() >= 0
            assert (np.delete(row, list(places)) < 0).all()


@pytest.mark.parametrize("options", [{"schedule": "online"}, {"training": "scratch", "distillation": 0.0}])
def test_other_ways_of_training_meet_the_budget_and_learn(options: dict[str, object], tmp_path: Path) -> None:
    task = points_task()
    chosen = Options(engine="torchscript", formats=(), step=4, **options)  # type: ignore[arg-type]
    result = prune(task, profile="raspberry-pi-4", budget=Budget(macs="40%"), options=chosen, runs=tmp_path)
    assert result.met
    assert result.summary["pruned"]["macs"] <= 0.4 * result.summary["dense"]["macs"]
    assert result.summary["dense"]["metric"] > 90
    assert result.summary["pruned"]["metric"] > 90


def test_new_weights_are_new_and_what_cannot_start_again_is_named() -> None:
    model = Points()
    fresh = initialized(model, seed=1)
    assert not torch.equal(fresh.first.weight, model.first.weight)
    assert torch.equal(initialized(model, seed=1).first.weight, fresh.first.weight)
    model.register_parameter("scale", nn.Parameter(torch.ones(1)))
    with pytest.raises(TrainingError, match="Points own parameters"):
        initialized(model)


def test_ways_that_exclude_each_other_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be combined"):
        Options(schedule="online", training="scratch")
    task = points_task()
    task.train = None
    with pytest.raises(RecipeError, match="online pruning needs training"):
        prune(task, profile="raspberry-pi-4", budget=Budget(macs="40%"), options=Options(schedule="online", formats=()), runs=tmp_path)


def test_what_cannot_be_trained_so_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    """Untrained new weights were once shipped, and online pruning without an epoch cut at random."""

    def refused(error: type[Exception], match: str, task: Task, budget: Budget = MACS, **options: object) -> None:
        with pytest.raises(error, match=match):
            prune(task, profile="raspberry-pi-4", budget=budget, options=Options(**options), runs=tmp_path)  # type: ignore[arg-type]

    refused(InputError, "scratch needs training, and epochs are 0", points_task(), training="scratch", epochs=0)
    refused(InputError, "scratch needs training, and task", replace(points_task(), train=None), training="scratch")
    refused(InputError, "epochs are 0", points_task(), schedule="online", epochs=0)
    refused(InputError, "fit of task points", replace(points_task(), fit=lambda model: None), schedule="online")
    refused(BudgetError, "max_drop needs a score", replace(points_task(), validation=None), Budget(macs="50%", max_drop=1.0))
    refused(InputError, "Known criteria", points_task(), criterion="magic")
    refused(ExportError, "unknown export format", points_task(), formats=("tflit",))
    task = points_task()
    task.model.register_parameter("scale", nn.Parameter(torch.ones(1)))
    refused(TrainingError, "own parameters", task, training="scratch")
    triples = [(inputs, targets, 0) for inputs, targets in task.train or ()]
    refused(RecipeError, "training data of task points is a tuple of 3", replace(points_task(), train=triples))  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_from_scratch_a_deep_cut_is_made_at_once(tmp_path: Path) -> None:
    options = Options(engine="torchscript", formats=(), step=4, training="scratch", epochs=2)
    result = prune(points_task(), profile="raspberry-pi-4", budget=Budget(macs="20%"), options=options, runs=tmp_path)
    assert [path.name.rpartition("-")[0] for path in result.run.glob("tune-*.safetensors")] == ["tune-final-0"]


def test_options_without_effect_are_noted(tmp_path: Path) -> None:
    listener = Noting()
    task = replace(points_task(), fit=lambda model: None)
    options = Options(engine="torchscript", formats=(), step=4, epochs=2, distillation=0.1)
    prune(task, profile="raspberry-pi-4", budget=MACS, options=options, runs=tmp_path, listener=listener)
    assert any("the options epochs, distillation have no effect" in note for note in listener.notes)


@pytest.mark.parametrize(
    ("changed", "options", "why"),
    [
        ({}, {"objective": "uniform"}, "uniform is the only objective"),
        ({}, {"epochs": 0.0}, "epochs are 0"),
        ({"train": None}, {}, "task points has no training data"),
        ({"fit": lambda model: None}, {}, "task points is trained by its own fit"),
        ({}, {}, None),
    ],
)
def test_a_race_without_effect_is_noted(changed: dict[str, Any], options: dict[str, Any], why: str | None) -> None:
    request = RunRequest(replace(points_task(), **changed), MACS, options=Options(race=True, **options))
    notes: list[str] = []
    check_task(request, EventStream(lambda event: notes.append(event.text) if isinstance(event, Noted) else None))
    assert [note for note in notes if "race" in note] == ([f"the race has no effect: {why}"] if why else [])


class Noting:
    def progress(self, stage: str, done: int, total: int) -> None: ...

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_a_channel_costs_what_the_tightest_limit_bounds() -> None:
    """The penalty was once in milliseconds, whatever the budget was."""
    model = nn.Sequential(nn.Conv2d(3, 32, 3, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model.extend([nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 512)])
    analysis = analyze(model.eval(), (torch.zeros(1, 3, 64, 64),))
    planner = Planner(analysis, PriorTimes(load("raspberry-pi-4")), all_choices(analysis, 8), (1.0, 1.0, 1.0))
    macs, parameters = (prices(planner, planner.dense, kind) for kind in ("macs", "parameters"))
    first, second = (group.name for group in analysis.groups)
    assert macs[first] > macs[second]
    assert parameters[first] < parameters[second]


def test_a_run_with_a_shuffling_loader_repeats(tmp_path: Path) -> None:
    """What weights were reconstructed from was once drawn again by every call: a resumed run shipped what was not measured."""
    first, again = points_task(), points_task()
    for task in (first, again):
        assert task.train is not None
        pairs = [torch.cat(column) for column in zip(*task.train, strict=True)]
        task.train = DataLoader(TensorDataset(*pairs), batch_size=32, shuffle=True)
    options = Options(engine="torchscript", formats=(), step=4, epochs=0)
    torch.manual_seed(1)
    result = prune(first, profile="raspberry-pi-4", budget=MACS, options=options, runs=tmp_path)
    torch.manual_seed(2)
    repeated = prune(again, profile="raspberry-pi-4", budget=MACS, options=options, runs=tmp_path)
    for mine, other in zip(result.model.parameters(), repeated.model.parameters(), strict=True):
        assert torch.equal(mine, other)
