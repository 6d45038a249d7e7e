"""A task of a Hugging Face model, its tokenizer or processor, and a dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from edgeprune.batches import Signature
from edgeprune.errors import RecipeError
from edgeprune.task import Task

COLUMNS = {
    "input_ids": ("text", "sentence", "question", "content"),
    "pixel_values": ("image", "img", "pixel_values"),
    "input_values": ("audio", "speech", "array"),
    "input_features": ("audio", "speech", "array"),
}
"""The columns of raw data, by the first input that a tokenizer or processor makes of them."""

LABELS = ("labels", "label")

IGNORED = -100
"""The label of positions that do not count, in PyTorch's losses and Hugging Face's collators."""

FUNCTIONS = ("SequenceClassification", "ImageClassification", "AudioClassification", "TokenClassification", "MaskedLM", "CausalLM")
"""The heads whose loss is a function of their logits: those models can be cut in their graphs too."""


def from_transformers(
    model: nn.Module,
    processor: Any,
    dataset: Any,
    *,
    validation: Any = None,
    column: str | None = None,
    batch_size: int = 32,
    max_length: int = 128,
    sampling_rate: int | None = None,
    **settings: Any,
) -> Task:
    """A task of ``model``, with its ``processor``: a tokenizer, an image processor or a feature extractor.

    ``dataset``: rows (dicts) that can be indexed, as a ``datasets.Dataset`` or a list; or a dict of splits, of which "train" and
    "validation" (or "test") are used. ``validation``: the rows to score on. A row has its raw data under ``column`` ("text", "image",
    "audio" and the like are found), or what the processor made of them; and its label under "label" or "labels". ``max_length``: tokens
    (of audio: samples) of every inference: shorter inputs are padded, longer ones cut, since a device's inputs have one shape.
    ``sampling_rate``: of audio, in hertz. ``settings``: of :class:`edgeprune.Task`.

    Classification (of sequences, tokens, images, sounds) and language models are trained on their logits' cross entropy (labels of
    -100 do not count), real labels on squared errors, or several of them on the binary cross entropy; all others on the loss that the
    model computes. The metric is the accuracy in percent, or the mean squared error. Raises :class:`RecipeError` for rows that lack what
    is needed.
    """
    train, held_out = _splits(dataset, validation)
    collate = Collate(processor, Signature(model), column, max_length, sampling_rate)
    example = collate(_rows(train, 1))
    targets = example.pop("labels")
    head = next((name for name in FUNCTIONS if type(model).__name__.endswith(f"For{name}")), None)
    score = Score(shifted=head == "CausalLM", squared=targets.is_floating_point() and getattr(model.config, "num_labels", 0) == 1)
    given: dict[str, Any] = {
        "train": DataLoader(train, batch_size, shuffle=True, collate_fn=collate),
        "validation": DataLoader(held_out, batch_size, collate_fn=collate) if held_out is not None else None,
        "loss": "model" if head is None else HeadLoss(score),
        "metric": score,
        "metric_name": "mean squared error" if score.squared else "accuracy",
        "metric_unit": "" if score.squared else "%",
        "higher_is_better": not score.squared,
        "labels": _class_names(model),
        "preprocessing": _preprocessing(processor),
    }
    return Task(model, example, **(given | settings))


@dataclass(frozen=True)
class Collate:
    """Makes a batch of rows: what the processor makes of their raw data, of which the model takes a part, and "labels"."""

    processor: Any
    signature: Signature
    column: str | None
    max_length: int
    sampling_rate: int | None

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        names = list(self.processor.model_input_names)
        values = self._processed(rows, names[0])
        wanted = [name for name in names if name in values and not self.signature.unknown([name])]
        return {name: torch.as_tensor(values[name]) for name in wanted} | {"labels": self._labels(rows)}

    def _processed(self, rows: Sequence[Mapping[str, Any]], first: str) -> Mapping[str, Any]:
        if first in rows[0] and not (first == "pixel_values" and self.column):  # they were processed before
            if first == "input_ids":
                given = [{name: row[name] for name in self.processor.model_input_names if name in row} for row in rows]
                padded: Mapping[str, Any] = self.processor.pad(given, padding="max_length", max_length=self.max_length, return_tensors="pt")
                return {name: value[:, : self.max_length] for name, value in padded.items()}
            return {name: torch.stack([torch.as_tensor(row[name]) for row in rows]) for name in rows[0] if name not in LABELS}
        raw = [row[self._column_of(rows[0], first)] for row in rows]
        lengths = {"padding": "max_length", "truncation": True, "max_length": self.max_length}
        if first == "input_ids":
            found: Mapping[str, Any] = self.processor(list(raw), return_tensors="pt", **lengths)
        elif first == "pixel_values":
            found = self.processor(images=list(raw), return_tensors="pt")
        else:
            sounds = [sound["array"] if isinstance(sound, Mapping) else sound for sound in raw]
            found = self.processor(sounds, sampling_rate=self.sampling_rate, return_tensors="pt", **lengths)
        return found

    def _column_of(self, row: Mapping[str, Any], first: str) -> str:
        known = (self.column,) if self.column is not None else COLUMNS.get(first, ())
        for name in known:
            if name in row:
                return name
        raise RecipeError(
            f"a row of the dataset has {', '.join(row)}, but none of {', '.join(known) or first}",
            remedy='Say which column holds the raw data: from_transformers(..., column="...").',
        )

    def _labels(self, rows: Sequence[Mapping[str, Any]]) -> Tensor:
        name = next((name for name in LABELS if name in rows[0]), None)
        if name is None:
            raise RecipeError(f"a row of the dataset has {', '.join(rows[0])}, and no label", remedy='Name that column "label".')
        labels = [row[name] for row in rows]
        if isinstance(labels[0], (list, tuple)) and type(labels[0][0]) is int:  # one a token
            labels = [[*one, *[IGNORED] * (self.max_length - len(one))][: self.max_length] for one in labels]
        return torch.stack(labels) if isinstance(labels[0], Tensor) else torch.tensor(labels)


@dataclass(frozen=True)
class Score:
    """The accuracy in percent of the logits over the labels that count, or with ``squared`` the mean squared error.

    ``shifted``: a position's logits are of the token after it.
    """

    shifted: bool = False
    squared: bool = False

    def __call__(self, outputs: Any, targets: Tensor) -> float:
        logits, targets = self.aligned(outputs, targets)
        if self.squared:
            return float(functional.mse_loss(logits.reshape(targets.shape), targets))
        if targets.is_floating_point():
            return 100.0 * float(((logits > 0) == (targets > 0.5)).float().mean())
        counted = targets != IGNORED
        return 100.0 * float((logits.argmax(-1) == targets)[counted].float().mean())

    def aligned(self, outputs: Any, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The logits, and the labels of the same positions."""
        logits: Tensor = outputs["logits"] if isinstance(outputs, Mapping) else outputs.logits
        return (logits[:, :-1], targets[:, 1:]) if self.shifted else (logits, targets)


@dataclass(frozen=True)
class HeadLoss:
    """The loss of a head's logits, as Hugging Face's models compute it."""

    score: Score

    def __call__(self, outputs: Any, targets: Tensor) -> Tensor:
        logits, targets = self.score.aligned(outputs, targets)
        if self.score.squared:
            return functional.mse_loss(logits.reshape(targets.shape), targets)
        if targets.is_floating_point():
            return functional.binary_cross_entropy_with_logits(logits, targets)
        return functional.cross_entropy(logits.flatten(0, -2), targets.flatten(), ignore_index=IGNORED)


def _splits(dataset: Any, validation: Any) -> tuple[Any, Any]:
    if not isinstance(dataset, Mapping):
        return dataset, validation
    if "train" not in dataset:
        raise RecipeError(f"the dataset has the splits {', '.join(map(str, dataset))}, and no train", remedy="Give the rows themselves.")
    return dataset["train"], validation if validation is not None else dataset.get("validation", dataset.get("test"))


def _rows(data: Any, count: int) -> list[Mapping[str, Any]]:
    rows = [data[place] for place in range(min(count, len(data)))]
    if not rows or not isinstance(rows[0], Mapping):
        held = f"rows of type {type(rows[0]).__name__}" if rows else "no rows"
        raise RecipeError(f"the dataset has {held}, not dicts", remedy='A row is a dict such as {"text": ..., "label": ...}.')
    return rows


def _class_names(model: nn.Module) -> list[str]:
    """The classes' names, unless they are those that transformers gives by itself."""
    known = getattr(model.config, "id2label", None) or {}
    names = [str(known[place]) for place in sorted(known)]
    return [] if all(name == f"LABEL_{place}" for place, name in enumerate(names)) else names


def _preprocessing(processor: Any) -> dict[str, Any]:
    """How an image processor normalises pixels."""
    mean, std = getattr(processor, "image_mean", None), getattr(processor, "image_std", None)
    if mean is None or std is None:
        return {}
    factor = getattr(processor, "rescale_factor", None) or 1.0
    return {"input": "image", "scale": round(1 / factor, 6), "mean": list(mean), "std": list(std)}
