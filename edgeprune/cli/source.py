"""What is pruned: the task of a recipe, or of a model file, and the options that only model files take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgeprune.engines import ONNX, engine_of

if TYPE_CHECKING:
    from edgeprune.decode import JsonObject
    from edgeprune.importers.task import FileOptions
    from edgeprune.task import Task

F = TypeVar("F", bound=Callable[..., Any])

_DATA = ("data", "images", "samples", "mean", "std")


def is_model_file(path: str | Path) -> bool:
    """Whether ``path`` is read as a model, not run as a recipe."""
    return engine_of(str(path)) == ONNX


def _shapes(context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]) -> dict[str, list[int]]:
    """``1x3x224x224`` (in order) or ``x=1x3x224x224``."""
    found: dict[str, list[int]] = {}
    for place, text in enumerate(texts):
        name, _, sizes = text.rpartition("=")
        parts = sizes.lower().split("x")
        if not all(part.isdigit() and int(part) > 0 for part in parts):
            raise click.BadParameter(f"{text!r} is not a shape, such as 1x3x224x224 or images=1x3x224x224")
        found[name or str(place)] = [int(part) for part in parts]
    if any(name.isdigit() for name in found) and not all(name.isdigit() for name in found):
        raise click.BadParameter("name all inputs, or none")
    return found


def _constants(context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]) -> dict[str, float]:
    """``sr=16000``."""
    found: dict[str, float] = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            raise click.BadParameter(f"{text!r} is not a name and a number, such as sr=16000") from None
    return found


def _numbers(_: click.Context, __: click.Parameter, text: str | None) -> list[float]:
    try:
        return [float(part) for part in text.split(",")] if text else []
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a list of numbers, such as 0.485,0.456,0.406") from None


_SIZES = (
    click.option(
        "--input",
        "input_shapes",
        multiple=True,
        metavar="SHAPE",
        callback=_shapes,
        help="Sizes of one inference where an ONNX file leaves them open: 1x3x224x224; of several inputs in order, or by name (x=1x16).",
    ),
    click.option(
        "--constant",
        "constants",
        multiple=True,
        metavar="NAME=NUMBER",
        callback=_constants,
        help="Set an input of an ONNX file for good, such as sr=16000.",
    ),
)
_SAMPLES = (
    click.option("--data", metavar="RECIPE", help="Recipe of an ONNX file's data, loss and metric: task(model), or task() with any model."),
    click.option("--images", metavar="DIR", help="Images that the model of an ONNX file learns from, without labels: its own answers are."),
    click.option("--samples", metavar="FILE", help="The same with an .npz file of arrays, under the names of the inputs."),
    click.option("--mean", metavar="NUMBERS", callback=_numbers, help="Of --images, from 0 to 1 [default: ImageNet's; 0.5 for grey]."),
    click.option("--std", metavar="NUMBERS", callback=_numbers, help="Of --images, from 0 to 1 [default: ImageNet's; 0.5 for grey]."),
)


def size_options(function: F) -> F:
    """Add ``--input`` and ``--constant``, passed as ``input_shapes`` and ``constants``."""
    for option in reversed(_SIZES):
        function = option(function)
    return function


def file_options(function: F) -> F:
    """Add all options that model files take."""
    for option in reversed((*_SIZES, *_SAMPLES)):
        function = option(function)
    return function


def asked_options(path: str | Path, given: dict[str, Any]) -> FileOptions | None:
    """The options of a model file among ``given``; None for a recipe.  Raises :class:`click.UsageError` where a recipe was given some."""
    known = {name: given[name] for name in (*_DATA, "input_shapes", "constants") if name in given}
    if not is_model_file(path):
        if used := [name for name, value in known.items() if value]:
            option = {"input_shapes": "input", "constants": "constant"}.get(used[0], used[0])
            raise click.UsageError(f"--{option} is for model files (.onnx), and {path} is a recipe: it says such things itself.")
        return None
    from edgeprune.importers.task import FileOptions

    for name in ("data", "images", "samples"):
        if known.get(name) is not None:
            known[name] = str(Path(known[name]).resolve())
    return FileOptions(**known)


def load_task(path: str | Path, options: FileOptions | JsonObject | None = None) -> Task:
    """The task of a recipe, or of a model file with ``options``."""
    from edgeprune.task import load_recipe

    if not is_model_file(path):
        return load_recipe(path)
    from edgeprune.decode import convert
    from edgeprune.errors import RunError
    from edgeprune.importers.task import FileOptions, task_of

    if isinstance(options, dict):
        try:
            options = convert(options, FileOptions)
        except ValueError as error:
            raise RunError(f"the run says not how {path} became a task: {error}", remedy="Start a new run.") from error
    return task_of(path, options)
