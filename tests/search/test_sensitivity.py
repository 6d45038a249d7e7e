"""Curves of what every width keeps: measured from the first change on, they are those of whole copies of the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeprune.graph import Analysis, analyze
from edgeprune.search.plan import rerun, sensitivity
from edgeprune.search.plan.rerun import Trial, rerun_of
from edgeprune.search.plan.sensitivity import importance_curves
from edgeprune.surgery import plan_from_saliency
from edgeprune.task import Task
from edgeprune.testing.networks import Gated, OptionA, Shuffle, awake


class InPlace(nn.Module):
    """Writes over what it computed, within a residual block that can go whole and across it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.inner, self.depth, self.outer = nn.Conv2d(8, 12, 1), nn.Conv2d(12, 12, 3, padding=1, groups=12), nn.Conv2d(12, 8, 1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(12), nn.BatchNorm2d(8)])
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.stem(x)), inplace=True)
        hidden = functional.hardswish(self.norms[0](self.inner(x)), inplace=True)
        x += self.norms[1](self.outer(self.depth(hidden)))
        scores: Tensor = self.head(functional.relu(x, inplace=True).mean((2, 3)))
        return scores


class Sequence(nn.Module):
    """Recurrent, then attention and layer norms."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.layer = nn.LSTM(6, 12, batch_first=True), nn.TransformerEncoderLayer(12, 3, 16, batch_first=True, dropout=0.0)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.layer(self.lstm(x)[0]).mean(1))
        return scores


class Named(nn.Module):
    """Takes its inputs by name and gives several outputs, and its loss where it is given labels."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.hidden, self.norm = nn.Embedding(20, 8), nn.Linear(8, 12), nn.BatchNorm1d(12)
        self.logits, self.boxes = nn.Linear(12, 4), nn.Linear(12, 4)

    def forward(self, tokens: Tensor, mask: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        hidden = functional.relu(self.norm(self.hidden((self.embed(tokens) * mask.unsqueeze(-1)).mean(1))))
        found = {"logits": self.logits(hidden), "boxes": self.boxes(hidden)}
        return found if labels is None else {"loss": functional.cross_entropy(found["logits"], labels), **found}


class Drawing(nn.Module):
    """Random when it is evaluated."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.last(functional.dropout(self.first(x).relu(), 0.1, training=True))
        return scores


class Overwriting(Drawing):
    """Writes into its input."""

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.last(self.first(x.mul_(0.5)).relu())
        return scores


def images(count: int = 64) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def rows(*shape: int) -> Tensor:
    return torch.randn(64, *shape, generator=torch.Generator().manual_seed(1))


def task(model: nn.Module, inputs: Any, batches: int = 1, **settings: Any) -> Task:
    labels = torch.arange(64) % 4
    if isinstance(inputs, dict):
        data: Any = [{**inputs, "labels": labels}] * batches
        example: Any = {name: value[:1] for name, value in inputs.items()}
    else:
        data, example = [(part, label) for part, label in zip(inputs.chunk(batches), labels.chunk(batches), strict=True)], (inputs[:1],)
    return Task(awake(model), example, data, data, **settings)


def named() -> dict[str, Tensor]:
    tokens = torch.randint(0, 20, (64, 5), generator=torch.Generator().manual_seed(1))
    return {"tokens": tokens, "mask": torch.ones(64, 5)}


def named_loss(outputs: Any, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs["logits"], targets)


KINDS: dict[str, Callable[[], Task]] = {
    "in-place": lambda: task(InPlace(), images()),
    "shortcut": lambda: task(OptionA(), images()),
    "shuffle": lambda: task(Shuffle(), images()),
    "gated": lambda: task(Gated(), images()),
    "sequence": lambda: task(Sequence(), rows(5, 6)),
    "named": lambda: task(Named(), named(), loss=named_loss, metric=lambda outputs, targets: 0.0),
    "own loss": lambda: task(Named(), named(), loss="model", metric=lambda outputs, targets: 0.0),
}


def asked(job: Task) -> tuple[Analysis, dict[str, np.ndarray], dict[str, list[int]]]:
    """The analysis, a saliency, and choices with whole blocks among them."""
    analysis = analyze(job.model, job.example_inputs)
    random = np.random.default_rng(0)
    saliency = {group.name: random.random(group.rows.shape) for group in analysis.groups}
    choices = {group.name: [max(1, group.size // 2), group.size] for group in analysis.groups}
    for name in analysis.block_of:
        choices[name].insert(0, 0)
    return analysis, saliency, choices


@pytest.mark.parametrize("kind", KINDS)
def test_running_from_the_first_change_on_gives_the_curves_of_whole_copies(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        job = KINDS[kind]()
    analysis, saliency, choices = asked(job)
    before = {name: value.clone() for name, value in job.model.state_dict().items()}
    assert rerun_of(job.model, analysis, list(job.batches("train"))) is not None
    fast = [importance_curves(job, analysis, saliency, choices, reconstructed=way) for way in (False, True)]
    monkeypatch.setattr(sensitivity, "rerun_of", lambda *_: None)
    slow = [importance_curves(job, analysis, saliency, choices, reconstructed=way) for way in (False, True)]
    assert all(torch.equal(before[name], value) for name, value in job.model.state_dict().items())
    for found, wanted in zip(fast, slow, strict=True):
        assert found.keys() == wanted.keys()
        largest = max(-min(curve) for curve in wanted.values())
        assert largest > 0
        for name, curve in wanted.items():
            assert found[name] == pytest.approx(curve, rel=0.05, abs=0.02 * largest), name


def test_trials_share_what_comes_before_their_first_change() -> None:
    job = KINDS["in-place"]()
    analysis, saliency, _ = asked(job)
    run = rerun_of(job.model, analysis, list(job.batches("train")))
    assert run is not None
    assert run.written
    ran: list[Any] = []
    compute = run.run.run_node
    run.run.run_node = lambda node: (ran.append(node), compute(node))[1]  # type: ignore[method-assign]
    last = analysis.groups[-1]
    trials = [Trial(plan_from_saliency(analysis, saliency, {last.name: width})) for width in (2, 4, 6)]
    assert [number for number, _ in run.outputs(trials)] == [0, 1, 2]
    convolutions = [str(node.target) for node in ran if "conv" in str(node.target)]
    assert len(convolutions) < 3 * 4  # the model has four


@pytest.mark.parametrize("model", [Drawing, Overwriting])
def test_a_model_that_cannot_be_run_in_parts_is_copied(model: type[Drawing]) -> None:
    job = task(model(), rows(6))
    with pytest.warns(UserWarning, match="random") if model is Drawing else torch.no_grad():
        analysis, saliency, choices = asked(job)
    assert rerun_of(job.model, analysis, list(job.batches("train"))) is None
    curves = importance_curves(job, analysis, saliency, choices)
    assert all(curve[0] < 0 for curve in curves.values())


def test_what_does_not_fit_into_the_memory_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    job = KINDS["in-place"]()
    analysis = analyze(job.model, job.example_inputs)
    monkeypatch.setattr(rerun, "free_memory", lambda: 100_000)
    assert rerun_of(job.model, analysis, list(job.batches("train"))) is None


class Twins(nn.Module):
    """Every hidden channel has a scaled twin, so that half of them can be made up for exactly."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 16), nn.Linear(16, 4)
        with torch.no_grad():
            self.first.weight[8:] = 2 * self.first.weight[:8]
            self.first.bias[8:] = 2 * self.first.bias[:8]

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.second(self.first(x).relu())
        return result


def test_answers_of_several_batches_are_averaged() -> None:
    one = task(Twins(), rows(6))
    four = replace(one, train=task(Twins(), rows(6), batches=4).train)
    analysis, saliency, choices = asked(one)
    first, second = (importance_curves(job, analysis, saliency, choices) for job in (one, four))
    for name, curve in first.items():
        assert min(curve) < 0
        assert second[name] == pytest.approx(curve, rel=1e-4)


def test_after_reconstruction_a_width_costs_what_the_rest_cannot_make_up_for() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        job = Task(Twins().eval(), (rows(6)[:1],), [(rows(6), torch.arange(64) % 4)])
    analysis = analyze(job.model, job.example_inputs)
    name = analysis.groups[0].name
    saliency, choices = {name: np.arange(16.0)[None]}, {name: [2, 8, 16]}  # the first of each pair go first
    masked, solved = (importance_curves(job, analysis, saliency, choices, reconstructed=way)[name] for way in (False, True))
    assert masked[2] == solved[2] == 0.0
    assert solved[0] < solved[1] < 0
    prior = 0.05 * -solved[0] / 1.05 * 0.25  # all that is left of what half of the channels cost
    assert -solved[1] < 1.5 * prior
    assert masked[1] < 10 * solved[1]
