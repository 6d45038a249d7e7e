"""A task of a model file: with the data of a recipe, or without labels, with images or arrays alone."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from edgeprune.errors import InputError, RecipeError
from edgeprune.importers.answers import Agreement, Answered, AnswerLoss, answer, kinds_of, relative_error
from edgeprune.importers.samples import Wanted, from_images, from_npz
from edgeprune.recipes import expected, run_recipe
from edgeprune.task import Task

BATCH, HELD_OUT = 32, 0.2


@dataclass(frozen=True)
class FileOptions:
    """How a model file becomes a task, in JSON's types: what a run is resumed with.

    ``data``: a recipe; ``images``: a folder; ``samples``: an ``.npz`` file; one of them at most. ``input_shapes``: of one inference, by the
    name of the input, or in order under "0", "1", ...; ``constants``: values of inputs that are set for good. ``mean``, ``std``: of images.
    """

    data: str | None = None
    images: str | None = None
    samples: str | None = None
    input_shapes: dict[str, list[int]] = field(default_factory=dict)
    constants: dict[str, float] = field(default_factory=dict)
    mean: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        given = [name for name in ("data", "images", "samples") if getattr(self, name) is not None]
        if len(given) > 1:
            raise InputError(f"--{given[0]} and --{given[1]} were both given", remedy="Give one of --data, --images and --samples.")
        if (self.mean or self.std) and self.images is None:
            raise InputError("--mean and --std are of images, and no --images were given", remedy="Leave them out, or give --images DIR.")


def task_of(path: str | Path, options: FileOptions | None = None) -> Task:
    """The task of the model in the ONNX file ``path``.

    A recipe's ``task(model)`` is given the model; one without an argument returns a task whose model is replaced. Without labels the loss
    and the metric compare with the original's own answers: the share of equal decisions for class scores, else the relative error; a fifth
    of the samples is held out. Raises :class:`ModelFileError`, :class:`RecipeError` and :class:`InputError`.
    """
    from edgeprune.importers.onnx.opening import Imported, open_file

    path, options = Path(path), options or FileOptions()
    shapes = _shapes(options.input_shapes)
    replaced = _task_without_model(options.data) if options.data is not None else None
    if replaced is not None and not shapes:
        shapes = [tuple(leaf.shape) for leaf in pytree.tree_leaves(replaced.example_inputs) if isinstance(leaf, Tensor)]
    found: Imported = open_file(path, shapes or None, options.constants)
    names = {"input_names": [one.name for one in found.inputs], "output_names": [one.name for one in found.outputs]}
    if replaced is not None:
        task = replace(replaced, model=found.module, **names)  # type: ignore[arg-type]
    elif options.data is not None:
        task = replace(_given(run_recipe(options.data, "task", found.module), options.data), **names)  # type: ignore[arg-type]
    else:
        task = Task(found.module, found.example_inputs, **names, **_unlabelled(found, options))  # type: ignore[arg-type]
    if task.name == "model":
        task.name = path.stem
    return task


def _shapes(given: Mapping[str, Sequence[int]]) -> Any:
    if given and all(name.isdigit() for name in given):
        return [tuple(given[name]) for name in sorted(given, key=int)]
    return {name: tuple(sizes) for name, sizes in given.items()}


def _task_without_model(recipe: str) -> Task | None:
    """What a recipe whose ``task`` takes no argument returns; None where it takes the model."""
    if run_recipe(recipe, "task", call=lambda function: bool(inspect.signature(function).parameters)):
        return None
    return _given(run_recipe(recipe, "task"), recipe)


def _given(task: Any, recipe: str) -> Task:
    if not isinstance(task, Task):
        raise RecipeError(f"task() of recipe {recipe} returned a {type(task).__name__}, not an edgeprune.Task", remedy=expected("task"))
    return task


def _unlabelled(found: Any, options: FileOptions) -> dict[str, Any]:
    """The data, the loss and the metric of a task without labels; nothing where no samples are given."""
    if options.images is None and options.samples is None:
        return {}
    sizes = [tuple(value.shape) for value in found.example_inputs]
    inputs = [
        Wanted(one.name, size, value.dtype, found.samples.get(one.name))
        for one, size, value in zip(found.inputs, sizes, found.example_inputs, strict=True)
    ]
    joined, made = all(one.samples == 0 for one in inputs), dict[str, Any]()
    if options.images is not None:
        values, made = from_images(Path(options.images), inputs, options.mean, options.std)
        values = values if joined else [value.unsqueeze(1) for value in values]
    else:
        values = from_npz(Path(str(options.samples)), inputs)
    answers = answer(found.module, values, BATCH, joined)
    kinds = kinds_of([value if joined else value.flatten(0, 1) for value in answers])
    scores = next((place for place, kind in enumerate(kinds) if kind != "values"), None)
    order = torch.randperm(len(values[0]), generator=torch.Generator().manual_seed(0))
    held = max(1, int(HELD_OUT * len(order)))
    parts = {"validation": (order[:held], False), "train": (order[held:], True)}
    data = {
        name: Answered([value[taken] for value in values], [value[taken] for value in answers], BATCH, joined=joined, shuffled=shuffled)
        for name, (taken, shuffled) in parts.items()
    }
    return {
        **data,
        "loss": AnswerLoss(tuple(kinds)),
        "metric": relative_error if scores is None else Agreement(scores),
        "metric_name": "relative error" if scores is None else "agreement",
        "metric_unit": "%",
        "higher_is_better": scores is not None,
        "distillation": 0.0,  # the loss is one already
        "preprocessing": made,
    }
