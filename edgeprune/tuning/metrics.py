"""A metric over the validation data, with its standard error."""

from __future__ import annotations

import base64
import itertools
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from edgeprune.batches import Batch, tensors_of
from edgeprune.errors import TrainingError
from edgeprune.task import Task, accuracy, has_state

GROUPS = 20
"""Into how many groups the validation data are divided for the jackknife, at most."""

LEAST_GROUPS = 5
"""Fewer groups say nothing about an error."""

KEPT_BYTES = 2**28
"""Outputs and targets that are kept for the jackknife of a metric with state, at most."""

NORMAL_95 = 1.96
"""Standard errors in half a 95 % interval."""


@dataclass(frozen=True)
class Score:
    """A metric's ``value``, its standard ``error`` and ``how`` that was found; None where it is not known.

    ``parts``: what the error comes from, one entry a sample or a group of samples, whose mean is the value (of a jackknife, nearly): the
    errors of differences between two models on the same data come from the differences of their parts.
    """

    value: float
    error: float | None = None
    how: str | None = None
    parts: np.ndarray | None = field(default=None, repr=False, compare=False)

    def difference_error(self, other: Score) -> float | None:
        """The standard error of the difference to ``other``'s value, scored on the same data; None where one is not known."""
        if self.parts is None or other.parts is None or self.parts.shape != other.parts.shape:
            return None
        return _error_of(self.parts - other.parts)

    def to_json(self) -> dict[str, Any]:
        """In JSON's types; parts in 32 bits, compressed."""
        packed = None if self.parts is None else base64.b64encode(zlib.compress(self.parts.astype("<f4").tobytes())).decode()
        return {"metric": self.value, "error": self.error, "how": self.how, "parts": packed}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Score:
        """From what :meth:`to_json` gave, or an older version's value alone."""
        packed = values.get("parts")
        parts = None if packed is None else np.frombuffer(zlib.decompress(base64.b64decode(packed)), "<f4").astype(np.float64)
        return cls(float(values["metric"]), values.get("error"), values.get("how"), parts)


_Piece = tuple[tuple[Any, Any], int]
"""Outputs and targets of so many samples."""


class Accumulator(Protocol):
    """Gathers a metric batch by batch."""

    def add(self, outputs: Any, batch: Batch) -> None:
        """Take the model's outputs on one more batch."""
        ...

    def score(self) -> Score:
        """The metric over all batches."""
        ...


def accumulator(task: Task, errors: bool) -> Accumulator:
    """What gathers the task's metric; with ``errors``, what its standard error needs too."""
    return Stateful(task, errors) if has_state(task.metric) else Mean(task, errors)


class Mean:
    """A function of a batch's outputs and targets, averaged over batches by their size.

    The error is that of a mean over samples where the function of a batch is the mean over its samples (of the default accuracy it is the
    binomial one), else that of the batches' jackknife.
    """

    def __init__(self, task: Task, errors: bool) -> None:
        self.task, self.errors = task, errors
        self.values, self.sizes = list[float](), list[int]()
        self.samples: list[np.ndarray] | None = [] if errors else None

    def add(self, outputs: Any, batch: Batch) -> None:
        """Take the model's outputs on one more batch."""
        value = float(self.task.metric(outputs, batch.targets))
        require_finite(self.task, value, f" on validation batch {len(self.values) + 1}")
        self.values.append(value)
        self.sizes.append(batch.size)
        if self.samples is not None:
            found = self._each(outputs, batch)
            same = found is not None and math.isclose(float(found.mean()), value, rel_tol=1e-4, abs_tol=1e-4)
            if found is not None and same:
                self.samples.append(found)
            else:
                self.samples = None

    def _each(self, outputs: Any, batch: Batch) -> np.ndarray | None:
        """The metric of every sample; None where a batch cannot be taken apart."""
        if self.task.metric is accuracy:
            right: np.ndarray = 100.0 * (outputs.argmax(1) == batch.targets).double().cpu().numpy()
            return right
        size = batch.size
        if any(leaf.dim() == 0 or len(leaf) != size for leaf in tensors_of((outputs, batch.targets))):
            return None
        if not size or any(not isinstance(leaf, (Tensor, type(None))) for leaf in pytree.tree_leaves((outputs, batch.targets))):
            return None
        try:
            return np.array([float(self.task.metric(*_slice((outputs, batch.targets), at, at + 1))) for at in range(size)])
        except Exception:  # it takes batches only
            return None

    def score(self) -> Score:
        """The metric over all batches."""
        sizes, values = np.array(self.sizes, float), np.array(self.values)
        value = math.fsum(sizes * values) / sum(self.sizes)
        if self.samples:
            parts = np.concatenate(self.samples)
            kind = "binomial" if self.task.metric is accuracy else "of the mean"
            return Score(value, _error_of(parts), f"{kind}, {len(parts):,} samples", parts)
        if not self.errors or len(values) < LEAST_GROUPS:
            return Score(value)
        return jackknifed(value, (sizes @ values - sizes * values) / (sizes.sum() - sizes), sizes, "batches")


class Stateful:
    """An object with ``update(outputs, targets)``, ``compute()`` and ``reset()``, as torchmetrics has them.

    The error is the delete-a-group jackknife's over ``GROUPS`` groups of samples, where all outputs together take at most ``KEPT_BYTES``.
    Source: Kott, "The Delete-a-Group Jackknife", 2001; Efron, "The Jackknife, the Bootstrap and Other Resampling Plans", 1982.
    """

    def __init__(self, task: Task, errors: bool) -> None:
        self.task, self.metric = task, task.metric
        self.kept: list[_Piece] | None = [] if errors else None
        self.bytes = 0
        self.metric.reset()

    def add(self, outputs: Any, batch: Batch) -> None:
        """Take the model's outputs on one more batch."""
        given = (_answers(outputs) if isinstance(self.metric, nn.Module) else outputs, batch.targets)
        tensors = tensors_of(given)
        if isinstance(self.metric, nn.Module) and tensors:
            self.metric.to(tensors[0].device)
        self.metric.update(*given)
        self.bytes += sum(value.numel() * value.element_size() for value in tensors)
        if self.kept is not None:
            if self.bytes > KEPT_BYTES:
                self.kept = None
            else:
                self.kept.append((given, batch.size))

    def score(self) -> Score:
        """The metric over all batches."""
        value = self._value()
        pieces = _pieces(self.kept) if self.kept else []
        if len(pieces) < LEAST_GROUPS or not math.isfinite(value):
            return Score(value)
        groups = np.array_split(np.arange(len(pieces)), min(GROUPS, len(pieces)))
        without = np.array([self._over([piece for at, piece in enumerate(pieces) if at not in set(group)]) for group in groups])
        self._over(pieces)  # the state is again that of all data
        sizes = np.array([sum(pieces[at][1] for at in group) for group in groups], float)
        return jackknifed(value, without, sizes, "groups of samples") if np.isfinite(without).all() else Score(value)

    def _over(self, pieces: Sequence[_Piece]) -> float:
        self.metric.reset()
        for given, _ in pieces:
            self.metric.update(*given)
        return self._value()

    def _value(self) -> float:
        found = self.metric.compute()
        if isinstance(found, Mapping):
            name = next((one for one in (self.task.metric_name, "map") if one in found), None)
            if name is None:
                raise TrainingError(
                    f"{type(self.metric).__name__} computes {', '.join(map(str, found))}, and none of them is {self.task.metric_name}",
                    remedy="Say which one counts by the task's metric_name.",
                )
            found = found[name]
        if isinstance(found, Tensor) and found.numel() != 1:
            raise TrainingError(
                f"{type(self.metric).__name__} computes {found.numel()} values, not one", remedy='Average them: average="macro", say.'
            )
        return float(found)


def require_finite(task: Task, value: float, where: str = "") -> None:
    """Raise :class:`TrainingError` where a metric is not a number."""
    if not math.isfinite(value):
        raise TrainingError(
            f"the {task.metric_name} of {task.name} is {value}{where}, not a number",
            remedy="Check the model's outputs on the validation data for NaN or infinite values, and the metric for a division by zero.",
        )


def jackknifed(value: float, without: np.ndarray, sizes: np.ndarray, what: str) -> Score:
    """The score whose error comes from the values ``without`` each group of ``sizes`` samples.

    Its parts are Tukey's pseudo-values, weighted so that groups of unequal sizes count as they should: Busing, Meijer & van der Leeden,
    "Delete-m Jackknife for Unequal m", 1999.
    """
    count = len(without)
    parts = value + np.sqrt((count - 1) * (sizes.sum() / sizes - 1)) * (value - without)
    return Score(value, _error_of(parts), f"jackknife, {count} {what}", parts)


def _error_of(parts: np.ndarray) -> float | None:
    """The standard error of the parts' mean."""
    return float(parts.std(ddof=1) / math.sqrt(len(parts))) if len(parts) > 1 else None


def _answers(outputs: Any) -> Any:
    """The logits of a structured output; a plain one is what it is."""
    if isinstance(outputs, Tensor):
        return outputs
    found = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
    return outputs if found is None else found


def _pieces(kept: Sequence[_Piece]) -> list[_Piece]:
    """The batches in about ``GROUPS`` pieces or more, where their samples can be taken apart."""
    parts, pieces = max(1, -(-GROUPS // len(kept))), list[_Piece]()
    for one, held in kept:
        sizes = {_length(leaf) for leaf in _sides(one)}
        size = sizes.pop() if len(sizes) == 1 else None
        if not size or parts == 1:
            pieces.append((one, held))
            continue
        ends = np.linspace(0, size, min(parts, size) + 1).astype(int)
        pieces += [(_slice(one, int(start), int(end)), int(end - start)) for start, end in itertools.pairwise(ends)]
    return pieces


def _sides(given: tuple[Any, Any]) -> list[Any]:
    """What is taken apart sample by sample: lists with an entry a sample (a detector's), and tensors."""
    return [leaf for side in given for leaf in ([side] if isinstance(side, list) else pytree.tree_leaves(side))]


def _length(value: Any) -> int | None:
    return len(value) if isinstance(value, list) or (isinstance(value, Tensor) and value.dim()) else None


def _slice(given: tuple[Any, Any], start: int, end: int) -> tuple[Any, Any]:
    first, second = (
        side[start:end] if isinstance(side, list) else pytree.tree_map_only(torch.Tensor, lambda value: value[start:end], side)
        for side in given
    )
    return first, second
