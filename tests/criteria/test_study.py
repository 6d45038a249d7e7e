"""Criteria judged by removals that are measured."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from torch import nn
from torch.nn import functional

from edgeprune.criteria.correlation import mean_ratio, rank_correlation
from edgeprune.criteria.removals import Removals
from edgeprune.criteria.study import compare_criteria
from edgeprune.errors import InputError
from edgeprune.execute import executor_of
from edgeprune.graph import Analysis, analyze
from edgeprune.importance import CRITERIA, Criterion, Saliency, score
from edgeprune.importance.data import SAMPLES
from edgeprune.surgery import Plan, plan_from_saliency
from edgeprune.task import Task
from edgeprune.testing.criteria import make_task


def small_task(samples: int = SAMPLES + 384) -> tuple[Task, Analysis]:
    """Two linear layers of 12 inner units on random inputs."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    inputs, targets = torch.randn(samples, 6, generator=generator), torch.randint(0, 3, (samples,), generator=generator)
    task = Task(model, (inputs[:1],), train=list(zip(inputs.split(64), targets.split(64), strict=True)))
    return task, analyze(model, task.example_inputs)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=3, max_size=12))
def test_the_rank_correlation_is_spearmans(pairs: list[tuple[int, int]]) -> None:
    predicted, true = zip(*pairs, strict=True)
    found = rank_correlation([(predicted, true)])
    constant = len(set(predicted)) == 1 or len(set(true)) == 1
    assert found.value == pytest.approx(0.0 if constant else spearmanr(predicted, true).statistic, abs=1e-12)
    assert -1 - 1e-9 <= found.low <= found.high <= 1 + 1e-9


def test_strata_are_averaged_and_the_interval_shrinks_with_more_pairs() -> None:
    rising, falling = (range(8), range(8)), (range(8), range(8, 0, -1))
    both = rank_correlation([rising, falling, rising])
    assert both.value == pytest.approx(1 / 3)
    assert rank_correlation([rising]).low == pytest.approx(1.0)
    random = np.random.default_rng(0)
    few, many = (rank_correlation([random.standard_normal((2, size))]) for size in (8, 200))
    assert few.low < few.value < few.high
    assert many.high - many.low < (few.high - few.low) / 2


def test_a_ratio_is_the_geometric_mean_and_its_interval_spans_the_pairs() -> None:
    found = mean_ratio([1.0, 8.0], [2.0, 1.0])
    assert found.value == pytest.approx(2.0)
    assert (found.low, found.high) == (pytest.approx(0.5), pytest.approx(8.0))
    assert mean_ratio([0.0], [0.0]).value == 1.0


def test_a_removal_is_measured_on_batches_behind_those_that_criteria_see() -> None:
    task, analysis = small_task()
    removals = Removals.of(task, analysis, 256)
    later = torch.cat([inputs for inputs, _ in task.train])[-256:], torch.cat([targets for _, targets in task.train])[-256:]
    kept = [place for place in range(12) if place != 4]
    effect = removals.measure(Plan(analysis.fingerprint, {"0": (tuple(kept),)}))
    with torch.no_grad():
        hidden = task.model[1](task.model[0](later[0]))
        hidden[:, 4] = 0
        expected = float(functional.cross_entropy(task.model[2](hidden), later[1]))
    assert removals.images == 256
    assert effect.plain.loss == pytest.approx(expected, rel=1e-5)
    assert effect.recalibrated == effect.plain  # there is no batch norm
    assert removals.dense.plain.divergence == pytest.approx(0.0, abs=1e-6)
    assert effect.plain.divergence > 0


def test_recalibration_makes_up_for_a_removal_that_only_shifts_a_mean() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 6, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3))
    torch.manual_seed(0)
    inputs, targets = torch.randn(480, 3, 4, 4), torch.randint(0, 3, (480,))
    with torch.no_grad():
        model[0].weight[2], model[0].bias[2] = 0.0, 5.0  # what its readers see never changes
        model.train()
        model[3].momentum = 1.0
        model(inputs)
    task = Task(model.eval(), (inputs[:1],), train=[(inputs, targets)])
    removals = Removals.of(task, analyze(model, task.example_inputs), 256)
    effect = removals.measure(Plan(removals.analysis.fingerprint, {"0": (tuple(place for place in range(8) if place != 2),)}))
    assert effect.recalibrated.divergence < effect.plain.divergence / 20


def test_an_oracle_is_right_its_reverse_wrong_and_the_best_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    task, analysis = small_task()

    def oracle(task: Task, analysis: Analysis) -> Saliency:
        removals = Removals.of(task, analysis, 256)
        rows = [tuple(other for other in range(12) if other != place) for place in range(12)]
        return {"0": np.array([[removals.measure(Plan(analysis.fingerprint, {"0": (row,)})).recalibrated.divergence for row in rows]])}

    def reverse(task: Task, analysis: Analysis) -> Saliency:
        return {name: values.max() - values for name, values in oracle(task, analysis).items()}

    monkeypatch.setitem(CRITERIA, "oracle", Criterion("oracle", oracle, False, True))
    monkeypatch.setitem(CRITERIA, "reverse", Criterion("reverse", reverse, False, True))
    seen: list[tuple[int, int, str]] = []
    found = compare_criteria(task, analysis, ["reverse", "oracle"], on_progress=lambda *step: seen.append(step), samples=40)
    best, worst = found.criteria
    assert (best.name, worst.name) == ("oracle", "reverse")
    assert best.channel.value == best.across.value == pytest.approx(1.0)
    assert worst.channel.value == pytest.approx(-1.0)
    assert best.subset.value > 0.5 > -0.5 > worst.subset.value
    assert [followed.share for followed in best.followed] == [0.25, 0.5]
    assert best.followed[0].effect.plain.divergence < best.followed[1].effect.plain.divergence
    assert (len(found.channels), len(found.subsets)) == (40, 20)
    assert best.alone.value < min(1, worst.alone.value)
    lowest = {"0": 6}
    expected = [
        Removals.of(task, analysis, 256).measure(plan_from_saliency(analysis, oracle(task, analysis), lowest)).recalibrated.divergence
    ]
    expected.append(float(np.mean([cut.effect.recalibrated.divergence for cut in found.subsets])))
    assert best.alone.value == pytest.approx(expected[0] / expected[1])
    assert all(len(cut.removed[0]) == 6 for cut in found.subsets)
    assert seen[-1][0] == seen[-1][1] == len(seen)
    assert [done for done, _, _ in seen] == list(range(1, len(seen) + 1))


def test_following_a_criterion_is_pruning_by_it() -> None:
    task, analysis = small_task()
    found = compare_criteria(task, analysis, ["l2"], shares=(0.5,), samples=1)
    plan = plan_from_saliency(analysis, score(task, analysis, "l2"), {"0": 6})
    assert found.criteria[0].followed[0].effect == Removals.of(task, analysis, 256).measure(plan)
    assert found.criteria[0].seconds >= 0


@pytest.mark.parametrize("network", ["residual-depthwise", "attention-dimensions", "lstm"])
def test_every_kind_of_group_can_be_removed_from(network: str) -> None:
    task = make_task(network)
    analysis = analyze(task.model, task.example_inputs, attention=task.attention)
    found = compare_criteria(task, analysis, ["l1", "taylor"], samples=1, images=16)
    assert {cut.group for cut in found.channels} == {group.name for group in analysis.groups}
    rows = {group.name: len(group.rows) for group in analysis.groups}
    assert all(len(cut.removed) == rows[cut.group] for cut in found.channels)
    assert all(-1 <= one.channel.value <= 1 for one in found.criteria)
    again = compare_criteria(task, analysis, ["l1", "taylor"], samples=1, images=16)
    assert (again.channels, again.subsets) == (found.channels, found.subsets)


def test_what_does_not_apply_is_skipped_unless_it_was_asked_for() -> None:
    task, analysis = small_task(768)
    found = compare_criteria(task, analysis, samples=1, images=32)
    assert set(found.skipped) == {"bn-scale"}
    assert {one.name for one in found.criteria} == set(CRITERIA) - {"bn-scale"}
    with pytest.raises(InputError, match="needs batch-norm"):
        compare_criteria(task, analysis, ["bn-scale"])
    with pytest.raises(InputError, match="unknown criterion 'x'"):
        compare_criteria(task, analysis, ["l1", "x"])
    for shares in ((), (0.5, 1.0), (0.0,)):
        with pytest.raises(InputError, match="between 0 and 1"):
            compare_criteria(task, analysis, ["l1"], shares=shares)
    task.train = None
    with pytest.raises(InputError, match="no training data to measure"):
        compare_criteria(task, analysis, ["l1"])


def test_no_images_are_refused_and_no_names_are_all() -> None:
    task, analysis = small_task()
    with pytest.raises(InputError, match="images 0"):
        compare_criteria(task, analysis, images=0)
    assert "bn-scale" in compare_criteria(task, analysis, [], samples=1, images=16).skipped


def test_workers_measure_the_same_removals() -> None:
    task, analysis = small_task()
    given: dict[str, Any] = {"names": ["l2", "taylor"], "samples": 8, "images": 128}
    shown: list[int] = []
    with closing(executor_of(2)) as executor:
        apart = compare_criteria(task, analysis, **given, executor=executor, on_progress=lambda done, total, _: shown.append(total - done))
    here = compare_criteria(task, analysis, **given)
    assert shown == sorted(shown, reverse=True)
    assert shown[-1] == 0
    assert [replace(one, seconds=0.0) for one in apart.criteria] == [replace(one, seconds=0.0) for one in here.criteria]
    assert (apart.channels, apart.subsets, apart.dense) == (here.channels, here.subsets, here.dense)
