"""How good an exported file is: the task's own metric, computed with the file instead of the PyTorch model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from edgeprune.batches import Inputs, call, tensors_of
from edgeprune.decode import convert
from edgeprune.errors import ExportError
from edgeprune.export import formats
from edgeprune.export.formats import Loaded
from edgeprune.export.metadata import read_metadata
from edgeprune.export.pixels import Normalisation, image_places
from edgeprune.graph.batch import batch_of
from edgeprune.task import Task
from edgeprune.tuning import Score, score, score_with_error


class ExportedModel(nn.Module):
    """An exported file in the place of the model it was made from: it takes batches, and runs them inference by inference.

    ``example_inputs``: of one inference.  ``structure``: an output of the PyTorch model, whose nesting the outputs get.
    """

    def __init__(self, loaded: Loaded, example_inputs: Inputs, structure: Any) -> None:
        super().__init__()
        self._loaded = loaded
        self._size = batch_of(example_inputs)
        leaves, self._spec = pytree.tree_flatten(structure)
        self._leaves = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        self._others = {place: leaf for place, leaf in enumerate(leaves) if not isinstance(leaf, Tensor)}

    def forward(self, *given: Any, **named: Any) -> Any:
        inputs = tensors_of((given, named))
        count, size = inputs[0].shape[0], self._size
        if count % size:
            raise ExportError(f"a batch of {count} cannot be split into inferences of {size}", remedy="Give batches of a multiple of it.")
        parts = [self._loaded(tuple(value[start : start + size] for value in inputs)) for start in range(0, count, size)]
        joined = iter(
            torch.cat([value.to(leaf.dtype) for value in values])
            for values, leaf in zip(zip(*parts, strict=True), self._leaves, strict=True)
        )
        places = range(len(self._leaves) + len(self._others))
        return pytree.tree_unflatten([self._others[place] if place in self._others else next(joined) for place in places], self._spec)


def score_file(path: str | Path, task: Task, format_name: str | None = None) -> float:
    """The task's metric (or its ``evaluate``) of an exported file on this machine, one inference at a time, as a device runs it.

    ``format_name``: given by the suffix by default.  Quantized inputs and outputs, and inputs laid out as (N, ..., C), are seen to.
    Raises :class:`ExportError` when the file cannot be loaded, and what :func:`edgeprune.tuning.score` raises.
    """
    return score(_model_of(path, task, format_name), task)


def score_file_with_error(path: str | Path, task: Task, format_name: str | None = None) -> Score:
    """:func:`score_file` with the standard error over validation samples."""
    return score_with_error(_model_of(path, task, format_name), task)


def _model_of(path: str | Path, task: Task, format_name: str | None) -> ExportedModel:
    path = Path(path)
    entry = formats.of_path(path) if format_name is None else formats.find(format_name)
    if not path.is_file():
        raise ExportError(f"{path} does not exist", remedy="Export it first: edgeprune export.")
    try:
        loaded = entry.load(path)
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(f"{path} cannot be loaded as {entry.name}: {error}", remedy="Export or copy it again.") from error
    training = task.model.training
    with torch.no_grad():
        structure = call(task.model.eval(), task.example_inputs)
    task.model.train(training)
    loaded = _taking_values(loaded, read_metadata(path).get("pixels"), tensors_of(task.example_inputs))
    return ExportedModel(loaded, task.example_inputs, structure)


def _taking_values(loaded: Loaded, pixels: Any, example_inputs: Sequence[Tensor]) -> Loaded:
    """A file that takes its images as ``pixels`` (the normalisation in its metadata), fed with normalised values as the model is."""
    if pixels is None:
        return loaded
    try:
        normalisation, places = convert(pixels, Normalisation), image_places(example_inputs)
    except ValueError as error:
        raise ExportError(f"the normalisation in the file's metadata cannot be read: {error}", remedy="Export it again.") from error
    return lambda inputs: loaded(tuple(normalisation.pixels(value) if place in places else value for place, value in enumerate(inputs)))
