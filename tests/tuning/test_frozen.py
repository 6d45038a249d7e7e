"""Frozen parameters: said, and trained where that is wanted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import edgeprune
from edgeprune.errors import TrainingError
from edgeprune.surgery import apply, plan_from_saliency
from edgeprune.task import Task
from edgeprune.tuning import finetune
from edgeprune.tuning.frozen import changed, frozen_note, unfreeze
from edgeprune.tuning.sparsify import sparsify


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 24, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 4),
    ).eval()  # fmt: skip


def task(model: nn.Module, **given: object) -> Task:
    data = [(torch.randn(8, 3, 8, 8), torch.arange(8) % 4) for _ in range(2)]
    return Task(model, (torch.zeros(1, 3, 8, 8),), train=data, validation=data, epochs=1, **given)  # type: ignore[arg-type]


class Notes:
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)

    def progress(self, stage: str, done: int, total: int) -> None:
        pass


def pruned_half(model: nn.Module) -> tuple[edgeprune.graph.Analysis, edgeprune.surgery.Pruned]:
    analysis = edgeprune.analyze(model, (torch.zeros(1, 3, 8, 8),))
    saliency = {group.name: np.ones(group.rows.shape) for group in analysis.groups}
    return analysis, apply(
        model, analysis, plan_from_saliency(analysis, saliency, {group.name: group.size // 2 for group in analysis.groups})
    )


@pytest.mark.parametrize("schedule", ["one-shot", "online"])
def test_a_frozen_model_is_said_to_be_frozen_and_trains_when_asked(schedule: str, tmp_path) -> None:
    for wanted in (False, True):
        notes = Notes()
        options = edgeprune.Options(
            engine="torchscript",
            formats=("torchscript",),
            unfreeze=wanted,
            schedule=schedule,
            sensitivity=False,  # type: ignore[arg-type]
        )
        budget = edgeprune.Budget(macs="60%")
        frozen = network().requires_grad_(False)
        result = edgeprune.prune(task(frozen), profile="raspberry-pi-4", budget=budget, options=options, runs=tmp_path, listener=notes)
        assert not any(parameter.requires_grad for parameter in frozen.parameters())
        said = [text for text in notes.said if "frozen" in text or "fine-tuning for" in text]
        if wanted:
            assert said[-1].startswith("fine-tuning for")
            assert all(parameter.requires_grad for parameter in result.model.parameters() if parameter.dim() > 1)
        else:
            assert len(said) == 1
            assert "nothing is trained" in said[0]
            assert "--unfreeze" in said[0]


def test_what_the_cut_changed_and_stays_frozen_is_named() -> None:
    model = network()
    model[0].requires_grad_(False)
    analysis, pruned = pruned_half(model)
    text = frozen_note(pruned.model, changed(analysis, pruned))
    assert "0.weight, 0.bias" in text
    assert f"{sum(value.numel() for value in pruned.model.parameters()):,}" in text
    unfreeze(pruned.model, changed(analysis, pruned))
    assert frozen_note(pruned.model, changed(analysis, pruned)) == ""
    before = pruned.model.get_parameter("0.weight").clone()
    assert finetune(pruned.model, task(model)).steps == 2
    assert not torch.equal(pruned.model.get_parameter("0.weight"), before)


def test_a_fine_tuning_without_a_step_is_warned_of() -> None:
    model = network().requires_grad_(False)
    with pytest.warns(UserWarning, match="nothing is trained"):
        assert finetune(model, task(model)).steps == 0


def test_a_head_alone_that_trains_is_said_too() -> None:
    model = network().requires_grad_(False)
    model[7].requires_grad_(True)
    total = sum(value.numel() for value in model.parameters())
    assert frozen_note(model, []) == f"100 of {total:,} parameters are trained, the others are frozen (requires_grad=False)"


def test_frozen_weights_become_sparse_all_the_same() -> None:
    model = network().requires_grad_(False)
    assert sparsify(model, task(model), 0.5).sparsity == pytest.approx(0.5, abs=0.05)
    thawed = network().requires_grad_(False)
    result = sparsify(thawed, task(thawed, unfreeze=True), 0.5)
    assert result.tuned.steps == 2
    assert result.sparsity == pytest.approx(0.5, abs=0.05)


def test_nothing_trains_from_scratch_when_all_is_frozen(tmp_path) -> None:
    options = edgeprune.Options(training="scratch")
    with pytest.raises(TrainingError, match="frozen"):
        edgeprune.prune(
            task(network().requires_grad_(False)), profile="raspberry-pi-4", budget=edgeprune.Budget(macs="60%"), options=options,
            runs=tmp_path,
        )  # fmt: skip
