"""A candidate is a pure function of its plan, the weights and the settings."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from points_task import points_task

from edgeprune.budget import Budget
from edgeprune.export import ExportOptions
from edgeprune.graph import analyze
from edgeprune.importance import score
from edgeprune.search.candidate import Candidate, CandidateSettings, ExportSettings, candidate_key, make_candidate
from edgeprune.surgery import Plan, plan_from_saliency
from edgeprune.task import Task

SETTINGS = CandidateSettings(
    ExportSettings(ExportOptions(), Budget(latency="50%")), "pruned", ("torchscript",), reconstruct=True, epochs=0.5, seed=3
)


@pytest.fixture(scope="module")
def task() -> Task:
    return points_task(32)


@pytest.fixture(scope="module")
def plan(task: Task) -> Plan:
    analysis = analyze(task.model, task.example_inputs)
    widths = {group.name: group.size // 2 for group in analysis.groups}
    return plan_from_saliency(analysis, score(task, analysis, "l2"), widths)


def weights(made: Candidate) -> dict[str, torch.Tensor]:
    return dict(made.pruned.model.state_dict())


def test_the_same_inputs_make_the_same_candidate(task: Task, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    first = make_candidate(task, plan, SETTINGS)
    torch.rand(7)  # what was drawn in between does not matter
    sent, settings = pickle.loads(pickle.dumps((plan, SETTINGS)))
    second = make_candidate(task, sent, settings, analysis=analyze(task.model, task.example_inputs))
    assert weights(first).keys() == weights(second).keys()
    assert all(torch.equal(value, weights(second)[name]) for name, value in weights(first).items())
    assert first.files == second.files
    assert first.tuned is not None
    assert first.tuned.steps > 0
    assert list(tmp_path.iterdir()) == []
    assert all(torch.equal(value, before[name]) for name, value in task.model.state_dict().items())


def test_without_epochs_and_formats_it_is_only_cut(task: Task, plan: Plan) -> None:
    made = make_candidate(task, plan, CandidateSettings(SETTINGS.export, "cut"))
    assert made.tuned is None
    assert made.files == {}
    kept, dense = weights(made), task.model.state_dict()
    assert kept["first.weight"].shape == (16, 8)
    assert all(any(torch.equal(row, old) for old in dense["first.weight"]) for row in kept["first.weight"])


def test_a_model_that_nothing_is_cut_of_keeps_its_weights(task: Task) -> None:
    analysis = analyze(task.model, task.example_inputs)
    whole = plan_from_saliency(analysis, score(task, analysis, "l2"), {group.name: group.size for group in analysis.groups})
    made = make_candidate(task, whole, SETTINGS, analysis=analysis)
    dense = task.model.state_dict()
    assert all(torch.equal(value, dense[name]) for name, value in weights(made).items())
    assert made.tuned is not None
    assert made.tuned.steps == 0
    narrower = copy.deepcopy(task.model)
    assert make_candidate(task, whole, SETTINGS, model=narrower, analysis=analysis).tuned.steps > 0  # a stage of several goes on


def test_an_interrupted_tuning_continues_from_its_checkpoint(task: Task, plan: Plan, tmp_path: Path) -> None:
    whole = make_candidate(task, plan, SETTINGS, checkpoint=tmp_path / "tune.safetensors")
    again = make_candidate(task, plan, SETTINGS, checkpoint=tmp_path / "tune.safetensors")
    assert all(torch.equal(value, weights(again)[name]) for name, value in weights(whole).items())
    assert whole.files == again.files


def test_a_key_is_of_the_plan_the_weights_the_settings_and_the_code(task: Task, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    key = candidate_key(plan, task.model, SETTINGS)
    assert make_candidate(task, plan, replace(SETTINGS, epochs=None, formats=())).key != key
    assert candidate_key(*pickle.loads(pickle.dumps((plan, task.model, SETTINGS)))) == key
    assert candidate_key(plan, task.model, replace(SETTINGS, name="another")) == key
    retrained = copy.deepcopy(task.model)
    next(retrained.parameters()).data += 1.0
    fewer = Plan(plan.fingerprint, dict(list(plan.kept.items())[:1]))
    others = [(fewer, task.model, SETTINGS), (plan, retrained, SETTINGS), (plan, task.model, replace(SETTINGS, seed=4))]
    monkeypatch.setattr("edgeprune.search.candidate.code_version", lambda: "next")
    others.append((plan, task.model, SETTINGS))
    assert len({key, *(candidate_key(*other) for other in others)}) == 5
