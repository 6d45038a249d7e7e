"""Inputs of real inferences, on which the ranges of activations are seen and quantized files compared."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from edgeprune.batches import tensors_of
from edgeprune.errors import ExportError
from edgeprune.task import Task

Sample = Sequence[Tensor | np.ndarray[Any, Any]]

T = TypeVar("T")

SAMPLES = 128
"""Inferences that a calibration takes from a task."""

BATCHES = 16
"""Batches that a calibration takes from data of which nothing is known but that it can be iterated."""

LEAST_SAMPLES = 8
"""Inferences that a calibration has at least: ranges seen in fewer are those of the samples, not of the data."""


def calibration_of(task: Task, count: int = SAMPLES) -> list[tuple[Tensor, ...]]:
    """The inputs of ``count`` inferences, each in the shapes of the task's example inputs: evenly spread over its training data, which may
    be sorted by class (over its validation data when it has no other); of data that can only be iterated, over its first batches.
    Raises :class:`ExportError` when the task has no data."""
    data = task.train if task.train is not None else task.validation
    if data is None:
        raise ExportError(f"{task.name} has no data to calibrate on", remedy="Give the task `train` or `validation` batches.")
    examples = tensors_of(task.example_inputs)
    size = examples[0].shape[0] if examples and examples[0].dim() else 1
    state = torch.random.get_rng_state()  # a shuffling loader draws from it
    try:
        torch.manual_seed(0)
        found = list(_inferences(task, _spread(data, count * size), size))
    except Exception as error:  # what the data raise, too
        raise ExportError(
            f"the data of {task.name} cannot calibrate: {error}", remedy="Batches are (inputs, targets), and inputs tensors of samples."
        ) from error
    finally:
        torch.random.set_rng_state(state)
    return evenly(found, count)


def evenly(values: Sequence[T], count: int) -> list[T]:
    """At most ``count`` of the values, evenly spaced."""
    return [values[place * len(values) // count] for place in range(count)] if len(values) > count else list(values)


def _spread(data: Any, samples: int) -> Iterator[Any]:
    """Batches with at least so many samples, if there are as many, from all over the data where it has places."""
    batches = getattr(data, "batch_sampler", None)
    if isinstance(data, DataLoader) and batches is not None and hasattr(data.dataset, "__getitem__"):
        places = evenly([place for batch in batches for place in batch], samples)
        step = max(1, data.batch_size or BATCHES)
        for start in range(0, len(places), step):
            yield data.collate_fn([data.dataset[place] for place in places[start : start + step]])
    elif hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        for place in evenly(range(len(data)), samples):
            yield data[place]
    else:
        yield from itertools.islice(data, BATCHES)


def _inferences(task: Task, data: Iterable[Any], size: int) -> Iterator[tuple[Tensor, ...]]:
    unpack = task.unpacker()
    for batch in data:
        tensors = [value.detach().cpu() for value in tensors_of(unpack(batch, f"the data of {task.name}").leaves)]
        for start in range(0, int(tensors[0].shape[0]) - size + 1, size):
            yield tuple(value[start : start + size] for value in tensors)


def checked(calibration: Sequence[Sample], examples: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
    """The samples as tensors of the examples' dtypes.  Raises :class:`ExportError`: too few, not of the examples' shapes, NaN."""
    if len(calibration) < LEAST_SAMPLES:
        raise ExportError(
            f"the calibration has {len(calibration)} samples, and needs at least {LEAST_SAMPLES}",
            remedy="Give the inputs of a few hundred inferences, from the training data.",
        )
    return [_checked_sample(index, sample, examples) for index, sample in enumerate(calibration)]


def _checked_sample(index: int, sample: Sample, examples: Sequence[Tensor]) -> tuple[Tensor, ...]:
    if len(sample) != len(examples):
        raise ExportError(
            f"calibration sample {index} has {len(sample)} inputs, and the model {len(examples)}",
            remedy="Give a tuple of all inputs of one inference for each sample.",
        )
    tensors = []
    for place, (value, example) in enumerate(zip(sample, examples, strict=True)):
        try:
            tensor = torch.as_tensor(value).detach().cpu()
        except (TypeError, ValueError, RuntimeError) as error:
            raise ExportError(f"calibration sample {index}: input {place} is not a tensor: {error}") from error
        if tensor.shape != example.shape:
            raise ExportError(
                f"calibration sample {index}: input {place} has shape {tuple(tensor.shape)}, and the model takes {tuple(example.shape)}"
            )
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ExportError(
                f"calibration sample {index}: input {place} holds NaN or infinity",
                remedy="Clean the data: one such value ruins every range.",
            )
        tensors.append(tensor.to(example.dtype))
    return tuple(tensors)
