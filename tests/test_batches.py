"""Batches of every kind: pairs, dicts, keyword arguments, a model's own loss, and the user's unpack."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeprune import Task, analyze
from edgeprune.batches import Batch
from edgeprune.errors import RecipeError, TrainingError
from edgeprune.export import export
from edgeprune.export.calibration import calibration_of
from edgeprune.export.evaluate import score_file
from edgeprune.importance import score as saliency_of
from edgeprune.search.plan.sensitivity import importance_curves
from edgeprune.surgery import apply, load, plan_from_saliency, reconstruct, save
from edgeprune.tuning import finetune, recalibrate, score


class Tagger(nn.Module):
    """Takes its inputs by name, and its labels too: then it returns its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.hidden = nn.Linear(8, 12)
        self.norm = nn.BatchNorm1d(12)
        self.head = nn.Linear(12, 3)

    def forward(self, tokens: Tensor, mask: Tensor | None = None, *, labels: Tensor | None = None) -> dict[str, Tensor]:
        values = self.embed(tokens)
        if mask is not None:
            values = values * mask.unsqueeze(-1)
        logits = self.head(functional.relu(self.norm(self.hidden(values.mean(1)))))
        found = {"logits": logits}
        return found if labels is None else {"loss": functional.cross_entropy(logits, labels), **found}


class Forwarding(nn.Module):
    """Hands all it gets by name to another model."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Tagger()

    def forward(self, **inputs: Any) -> Any:
        return self.model(**inputs)


EXAMPLE = {"mask": torch.ones(1, 5), "tokens": torch.zeros(1, 5, dtype=torch.int64)}


def data(sizes: tuple[int, ...] = (8, 8, 3)) -> list[dict[str, Tensor]]:
    torch.manual_seed(1)
    return [
        {"idx": torch.arange(n), "tokens": torch.randint(0, 20, (n, 5)), "labels": torch.randint(0, 3, (n,)), "mask": torch.ones(n, 5)}
        for n in sizes
    ]


def cross_entropy(outputs: Any, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs["logits"], targets)


def right(outputs: Any, targets: Tensor) -> float:
    return 100 * float((outputs["logits"].argmax(1) == targets).float().mean())


def tagging(model: Callable[[], nn.Module] = Tagger, **settings: Any) -> Task:
    torch.manual_seed(0)
    given: dict[str, Any] = {"train": data(), "validation": data(), "loss": cross_entropy, "metric": right, "epochs": 1, "name": "tagging"}
    return Task(model(), EXAMPLE, **(given | settings))


@pytest.mark.parametrize("loss", [cross_entropy, "model"], ids=["function", "own"])
@pytest.mark.parametrize("model", [Tagger, Forwarding])
def test_a_model_of_keyword_inputs_is_analysed_cut_tuned_and_loaded(model: Callable[[], nn.Module], loss: Any, tmp_path: Path) -> None:
    job = tagging(model, loss=loss)
    analysis = analyze(job.model, job.example_inputs)
    assert analysis.captured.any_batch
    for criterion in ("taylor", "fisher", "activation"):
        saliency = saliency_of(job, analysis, criterion)
    choices = {group.name: [group.size // 2, group.size] for group in analysis.groups}
    assert set(importance_curves(job, analysis, saliency, choices)) == set(choices)
    plan = plan_from_saliency(analysis, saliency, {name: widths[0] for name, widths in choices.items()})
    pruned = apply(reconstruct(job.model, analysis, plan, list(job.batches("train"))), analysis, plan)
    assert recalibrate(pruned.model, job.batches("train")) == 3
    assert finetune(pruned.model, job, teacher=job.model).steps == 3
    save(tmp_path / "model.safetensors", pruned, analysis, job.example_inputs)
    again = load(model(), tmp_path / "model.safetensors")
    assert score(again, job) == score(pruned.model.eval(), job)


@pytest.mark.parametrize("model", [Tagger, Forwarding])
def test_a_cut_graph_takes_the_same_keywords(model: Callable[[], nn.Module]) -> None:
    job = tagging(model)
    analysis = analyze(job.model, job.example_inputs)
    plan = plan_from_saliency(analysis, saliency_of(job, analysis, "l2"), {group.name: 4 for group in analysis.groups})
    modules, graph = (apply(job.model, analysis, plan, mode).model for mode in ("modules", "graph"))  # type: ignore[arg-type]
    assert finetune(graph, job, teacher=job.model).steps == 3
    assert finetune(modules, job, teacher=job.model).steps == 3
    assert score(graph, job) == score(modules, job)


def test_an_exported_file_has_the_names_and_the_score_of_the_model(tmp_path: Path) -> None:
    job = tagging()
    path = export(job.model, job.example_inputs, ("pt2",), tmp_path, "tagger")["pt2"]
    assert score_file(path, job) == score(job.model, job)
    samples = calibration_of(job, 4)
    assert [tuple(value.dtype for value in sample) for sample in samples] == [(torch.float32, torch.int64)] * 4


def test_keyword_inputs_keep_the_order_of_the_example() -> None:
    batch = next(tagging().batches("train"))
    assert (batch.args, list(batch.kwargs)) == ((), ["mask", "tokens"])
    assert (batch.labels, batch.size) == ({}, 8)


def test_a_dict_batch_becomes_positional_where_the_example_is() -> None:
    job = Task(Tagger(), (EXAMPLE["tokens"], EXAMPLE["mask"]), train=data(), loss=cross_entropy)
    batch = next(job.batches("train"))
    assert [value.dtype for value in batch.args] == [torch.int64, torch.float32]
    assert not batch.kwargs


def test_a_pair_of_a_dict_and_targets_is_called_by_keyword() -> None:
    pairs = [({"tokens": one["tokens"], "mask": one["mask"]}, one["labels"]) for one in data()]
    assert finetune(tagging().model, tagging(train=pairs)).steps == 3


def test_labels_reach_a_model_that_computes_its_loss_and_not_its_score() -> None:
    job = tagging(loss="model")
    batch = next(job.batches("train"))
    assert set(batch.call(job.model, loss=True)) == {"loss", "logits"}
    assert set(batch.call(job.model)) == {"logits"}
    expected = functional.cross_entropy(batch.call(job.model)["logits"], batch.targets)
    got = job.loss_of(batch.call(job.model, loss=True), batch.targets, "here")
    torch.testing.assert_close(got, expected)


def test_a_users_unpack_takes_any_batch_apart() -> None:
    packed = [("a note", (one["labels"], one["tokens"], one["mask"])) for one in data()]
    job = tagging(train=packed, unpack=lambda batch: ((batch[1][1],), {"mask": batch[1][2]}, batch[1][0]), validation=None)
    batch = next(job.batches("train"))
    assert list(batch.kwargs) == ["mask", "tokens"]
    assert finetune(job.model, job).steps == 3


def test_samples_are_sliced_in_inputs_targets_and_labels_equally() -> None:
    batch = Batch((torch.zeros(6, 2),), {"mask": torch.ones(6)}, torch.arange(6), {"labels": torch.arange(6)}).sliced(2, 4)
    assert (batch.samples, batch.targets.tolist(), batch.labels["labels"].tolist()) == (2, [2, 3], [2, 3])


REFUSED = {
    "no labels": ({"tokens": 1, "mask": 2}, r"a dict of tokens, mask: none of them holds the targets"),
    "an input is missing": ({"tokens": 1, "labels": 2}, r"holds tokens, and not mask"),
    "one tensor": (torch.zeros(3, 2), r"is a tensor \(3, 2\), not \(inputs, targets\)"),
    "a text": ("text", r"is a str, not"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_batch_that_cannot_be_taken_is_described(case: str) -> None:
    batch, message = REFUSED[case]
    with pytest.raises(RecipeError, match=message):
        next(tagging(train=[batch]).batches("train"))


def test_an_input_that_the_example_lacks_is_named() -> None:
    with pytest.raises(RecipeError, match="holds mask, which forward of Tagger takes and the example inputs do not have"):
        next(Task(Tagger(), {"tokens": EXAMPLE["tokens"]}, train=data()).batches("train"))


def test_wrong_keyword_names_are_named() -> None:
    with pytest.raises(RecipeError, match=r"task.example_inputs names token, which forward of Tagger does not take") as raised:
        Task(Tagger(), {"token": EXAMPLE["tokens"]})
    assert "tokens, mask, labels" in str(raised.value.remedy)
    job = tagging(unpack=lambda batch: ((), {"token": batch["tokens"]}, batch["labels"]))
    with pytest.raises(RecipeError, match=r"task\.unpack names token, which"):
        next(job.batches("train"))


@pytest.mark.parametrize(
    ("unpack", "message"),
    [
        (lambda batch: batch["nothing"], "task.unpack raised KeyError on a batch of the training data .*, which is a dict of idx, tokens"),
        (lambda batch: (batch["tokens"], batch["labels"]), r"task.unpack returned a tuple of 2 .*, not \(args, kwargs, targets\)"),
    ],
)
def test_an_unpack_that_fails_is_described(unpack: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        next(tagging(unpack=unpack).batches("train"))


def test_a_model_that_computes_no_loss_is_reported() -> None:
    class Silent(Tagger):
        def forward(self, tokens: Tensor, mask: Tensor | None = None, *, labels: Tensor | None = None) -> dict[str, Tensor]:
            return super().forward(tokens, mask)

    job = tagging(Silent, loss="model")
    with pytest.raises(TrainingError, match='the loss is "model", and the model returned none: a dict'):
        finetune(job.model, job)


def test_a_loss_that_is_not_one_number_is_described() -> None:
    job = tagging(loss=lambda outputs, targets: functional.cross_entropy(outputs["logits"], targets, reduction="none"))
    with pytest.raises(TrainingError, match=r"the loss of tagging is a tensor \(8,\), not one number"):
        finetune(job.model, job)
