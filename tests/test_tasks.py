"""Tasks of Hugging Face models and of Lightning modules, with the real libraries."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from edgeprune import Task, analyze
from edgeprune.errors import RecipeError
from edgeprune.export import export
from edgeprune.export.evaluate import score_file
from edgeprune.importance import score as saliency_of
from edgeprune.surgery import apply, plan_from_saliency
from edgeprune.tasks import from_lightning, from_transformers
from edgeprune.tasks.segmentation import Overlap
from edgeprune.tuning import finetune, score, score_with_error

lightning = pytest.importorskip("pytorch_lightning", reason="pytorch-lightning is not installed")
torchmetrics = pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

WORDS = ["balance", "card", "lost", "pin", "what", "is", "my", "the", "where", "help"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers

    made = Tokenizer(models.WordLevel({word: place for place, word in enumerate(["[PAD]", "[UNK]", *WORDS])}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", model_input_names=["input_ids", "attention_mask"]
    )


def questions(count: int = 20) -> list[dict[str, Any]]:
    return [{"text": " ".join(WORDS[(place * 7 + at) % 10] for at in range(3 + place % 4)), "label": place % 3} for place in range(count)]


def distilbert(kind: str = "SequenceClassification", **config: Any) -> nn.Module:
    torch.manual_seed(0)
    settings = {"vocab_size": 12, "dim": 16, "n_heads": 4, "n_layers": 1, "hidden_dim": 24, "max_position_embeddings": 16, "num_labels": 3}
    model: nn.Module = getattr(transformers, f"DistilBertFor{kind}")(transformers.DistilBertConfig(**(settings | config)))
    return model.eval()


def halved(task: Task, mode: Any) -> nn.Module:
    analysis = analyze(task.model, task.example_inputs)
    saliency = saliency_of(task, analysis, "taylor")
    plan = plan_from_saliency(analysis, saliency, {group.name: max(1, group.size // 2) for group in analysis.groups})
    return apply(task.model, analysis, plan, mode).model


@pytest.mark.parametrize("mode", ["modules", "graph"])
def test_a_text_classifier_is_cut_and_trained(tokenizer: Any, mode: str) -> None:
    task = from_transformers(
        distilbert(), tokenizer, {"train": questions(), "test": questions(9)}, max_length=8, batch_size=8, epochs=1, learning_rate=0.01
    )
    assert list(task.example_inputs) == ["input_ids", "attention_mask"]
    assert [tuple(value.shape) for value in task.example_inputs.values()] == [(1, 8), (1, 8)]  # type: ignore[union-attr]
    assert finetune(halved(task, mode), task, teacher=task.model).steps == 3
    found = score_with_error(task.model, task)
    with torch.no_grad():
        given = tokenizer([row["text"] for row in questions(9)], padding="max_length", max_length=8, return_tensors="pt")
        answers = task.model(**given).logits.argmax(1)
    assert found.value == pytest.approx(100 * float((answers == torch.arange(9) % 3).float().mean()))
    assert found.error is not None


def test_the_loss_is_that_of_the_model(tokenizer: Any) -> None:
    for kind, config in (("SequenceClassification", {}), ("SequenceClassification", {"num_labels": 1}), ("TokenClassification", {})):
        rows = questions(6)
        if kind == "TokenClassification":
            rows = [{"input_ids": [2, 3, 4 + place], "attention_mask": [1] * 3, "labels": [0, 1, place % 3]} for place in range(6)]
        elif config:
            rows = [{**row, "label": float(row["label"])} for row in rows]
        task = from_transformers(distilbert(kind, **config), tokenizer, rows, max_length=8, batch_size=4)
        own = from_transformers(distilbert(kind, **config), tokenizer, rows, max_length=8, batch_size=4, loss="model")
        torch.manual_seed(0)
        batch = next(task.batches("train"))
        torch.manual_seed(0)
        same = next(own.batches("train"))
        ours = task.loss_of(batch.call(task.model), batch.targets, "here")
        theirs = own.loss_of(same.call(own.model, loss=True), same.targets, "here")
        torch.testing.assert_close(ours, theirs)


def test_a_head_without_such_a_loss_computes_its_own(tokenizer: Any) -> None:
    rows = [{"text": row["text"], "label": row["label"]} for row in questions(6)]
    assert from_transformers(distilbert(), tokenizer, rows).loss != "model"

    class Distilled(type(distilbert())):  # type: ignore[misc]
        """A head of another name."""

    assert from_transformers(Distilled(distilbert().config).eval(), tokenizer, rows).loss == "model"


def test_an_image_classifier_says_how_its_pixels_are_normalised() -> None:
    config = transformers.ResNetConfig(
        num_channels=3, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=2, layer_type="basic"
    )
    torch.manual_seed(0)
    model = transformers.ResNetForImageClassification(config).eval()
    processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    rows = [{"image": torch.randint(0, 255, (3, 40, 40), dtype=torch.uint8).numpy(), "label": place % 2} for place in range(6)]
    task = from_transformers(model, processor, rows, validation=rows, batch_size=4, epochs=1)
    assert task.preprocessing == {"input": "image", "scale": 255.0, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    assert list(task.example_inputs) == ["pixel_values"]
    assert finetune(halved(task, "modules"), task, teacher=task.model).steps == 2


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"sentences": "what is", "label": 0}], "has sentences, label, but none of text, sentence"),
        ([{"text": "what is"}], "has text, and no label"),
        ([("what", 0)], "the dataset has rows of type tuple, not dicts"),
        ({"test": []}, "the dataset has the splits test, and no train"),
    ],
)
def test_rows_that_lack_something_are_described(tokenizer: Any, rows: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        from_transformers(distilbert(), tokenizer, rows)


# --- Lightning -------------------------------------------------------------------------------------------------------


class Classifier(lightning.LightningModule):  # type: ignore[misc,name-defined]
    """A module as its users write them."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
        self.f1 = torchmetrics.classification.MulticlassF1Score(3)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.net(x)
        return scores

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        loss = functional.cross_entropy(self(x), y, label_smoothing=0.1)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        scores = self(x)
        self.f1(scores, y)
        self.log("val_f1", self.f1, on_epoch=True)
        self.log_dict({"val_loss": functional.cross_entropy(scores, y), "val_acc": (scores.argmax(1) == y).float().mean()})

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters())


class Points(lightning.LightningDataModule):  # type: ignore[misc,name-defined]
    def setup(self, stage: str) -> None:
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(50, 6, generator=generator)
        self.data = TensorDataset(inputs, inputs[:, :3].argmax(1))

    def train_dataloader(self) -> Any:
        return DataLoader(self.data, batch_size=16, shuffle=True)

    def val_dataloader(self) -> Any:
        return DataLoader(self.data, batch_size=16)


def made(module: Callable[[], Any] = Classifier, **settings: Any) -> Task:
    torch.manual_seed(0)
    return from_lightning(module(), Points(), **({"epochs": 2} | settings))


def test_a_module_is_trained_on_its_own_step() -> None:
    task = made()
    batch = next(task.batches("train"))
    assert [tuple(value.shape) for value in task.example_inputs] == [(1, 6)]
    x, y = batch.targets
    expected = functional.cross_entropy(task.model(x), y, label_smoothing=0.1)
    torch.testing.assert_close(task.loss_of(batch.call(task.model), batch.targets, "here"), expected)


@pytest.mark.parametrize("mode", ["modules", "graph"])
def test_a_module_is_cut_and_trained(mode: str) -> None:
    task = made(monitor="val_acc", mode="max")
    tuned = finetune(halved(task, mode), task, teacher=task.model)
    assert tuned.steps == 8
    assert tuned.score is not None
    assert tuned.before is not None
    assert 0 <= tuned.score <= 1


def test_a_module_is_exported_although_it_has_no_trainer(tmp_path: Path) -> None:
    task = made(monitor="val_acc", mode="max")
    path = export(task.model, task.example_inputs, ("torchscript",), tmp_path, "module")["torchscript"]
    assert score_file(path, task) == pytest.approx(score(task.model, task))


@pytest.mark.parametrize("monitor", ["val_loss", "val_acc", "val_f1"])
def test_what_its_validation_logs_is_the_metric(monitor: str) -> None:
    task = made(monitor=monitor, mode="min" if monitor == "val_loss" else "max")
    inputs, labels = next(iter(DataLoader(_points(), batch_size=50)))
    with torch.no_grad():
        scores = task.model(inputs)
    expected = {
        "val_loss": functional.cross_entropy(scores, labels),
        "val_acc": (scores.argmax(1) == labels).float().mean(),
        "val_f1": torchmetrics.classification.MulticlassF1Score(3)(scores, labels),
    }[monitor]
    assert score(task.model, task) == pytest.approx(float(expected), rel=1e-5)
    assert task.higher_is_better is (monitor != "val_loss")


def _points() -> TensorDataset:
    data = Points()
    data.setup("fit")
    return data.data


class Inside(Classifier):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return functional.cross_entropy(self.net(x), y)


def test_a_step_that_calls_another_module_is_told() -> None:
    with pytest.raises(RecipeError, match=r"training_step of Inside does not call self\(\.\.\.\)"):
        made(Inside)
    task = made(Inside, loss=functional.cross_entropy, unpack=lambda batch: ((batch[0],), {}, batch[1]), metric=lambda *_: 1.0)
    assert finetune(task.model, task, epochs=1).steps == 4


def test_a_name_that_is_not_logged_is_told_with_those_that_are() -> None:
    with pytest.raises(RecipeError, match="does not log val_auc: it logs val_f1, val_loss, val_acc"):
        score(made().model, made(monitor="val_auc"))


def test_a_module_that_optimizes_by_itself_is_refused() -> None:
    class Manual(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

    with pytest.raises(RecipeError, match="Manual optimizes by itself"):
        made(Manual)


def test_overlaps_of_masks_are_those_of_torchmetrics() -> None:
    from torchmetrics.functional import f1_score
    from torchmetrics.segmentation import MeanIoU

    generator = torch.Generator().manual_seed(0)
    scores, masks = torch.randn(5, 2, 9, 9, generator=generator), torch.randint(0, 2, (5, 9, 9), generator=generator)
    iou = MeanIoU(num_classes=2, include_background=False, input_format="index")(scores.argmax(1), masks)
    assert Overlap("iou")(scores, masks) == pytest.approx(100 * float(iou), abs=1e-3)
    dice = [f1_score(one.argmax(0), mask, task="binary") for one, mask in zip(scores, masks, strict=True)]
    assert Overlap("dice")(scores, masks) == pytest.approx(100 * float(torch.stack(dice).mean()), abs=1e-3)
