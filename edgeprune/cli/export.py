"""``edgeprune export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Required, TypedDict

import click

from edgeprune.cli.options import json_option
from edgeprune.cli.output import echo, print_json
from edgeprune.cli.source import asked_options, is_model_file, load_task, size_options
from edgeprune.engines import FORMATS, TFLITE, engine_of

if TYPE_CHECKING:
    from torch import nn

    from edgeprune.decode import JsonObject
    from edgeprune.export.pixels import Normalisation
    from edgeprune.export.sizes import SizesDocument
    from edgeprune.task import Task
    from edgeprune.tflite.graph import TensorDescription
    from edgeprune.tuning import Score


def parse_numbers(_: click.Context, __: click.Parameter, text: str | None) -> tuple[float, ...]:
    """``0.485,0.456,0.406`` as numbers."""
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a list of numbers, such as 0.485,0.456,0.406") from None


@click.command(short_help="Write a model in formats that devices run, or show what a file holds.")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--recipe", type=click.Path(path_type=Path), help="The recipe of a checkpoint.")
@click.option(
    "--format",
    "formats",
    default=TFLITE,
    show_default=True,
    metavar="NAMES",
    help=f"Separated by commas: {', '.join(FORMATS)}.",
)
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), help="Folder of the files [default: the checkpoint's].")
@click.option(
    "--calibration",
    type=click.IntRange(min=1),
    default=128,
    show_default=True,
    help="Number of inferences of the task's data that calibrate int8 ranges.",
)
@click.option(
    "--channels-last", is_flag=True, help="Lay out TFLite inputs (images, also of integers) as (N, ..., C) instead of (N, C, ...)."
)
@click.option("--integer-io", is_flag=True, help="Make the inputs and outputs of tflite-int8 int8 too.")
@click.option(
    "--keep-float",
    multiple=True,
    metavar="REGEX",
    help="Keep TFLite operators float: those whose outputs' names match, or that compute such an output of the model.",
)
@click.option(
    "--input-type",
    type=click.Choice(["float32", "uint8"]),
    default="float32",
    show_default=True,
    help="uint8: the file reads images as camera pixels and normalises them itself.",
)
@click.option(
    "--mean",
    metavar="NUMBERS",
    callback=parse_numbers,
    help="Mean of uint8 images scaled to [0, 1], for normalisation [default: the task's].",
)
@click.option(
    "--std", metavar="NUMBERS", callback=parse_numbers, help="Standard deviation, such as 0.229,0.224,0.225 [default: the task's]."
)
@click.option("--score", is_flag=True, help="Compute the task's metric with every file and with the model.")
@size_options
@click.option("--show", is_flag=True, help="Write nothing: show the metadata of the exported file SOURCE, and its bytes by part.")
@json_option
def command(source: Path, show: bool, as_json: bool, **given: Any) -> None:
    """Write SOURCE in formats that devices run, each compared with the PyTorch model.

    SOURCE is a pruned model's checkpoint (.safetensors, with --recipe, which may be the ONNX file that was pruned), a recipe (.py), whose
    own model is written, or an ONNX file. With --show, it is a file that was exported before.
    """
    if show:
        found = _shown(source)
        print_json(found) if as_json else _print_shown(found)
        return
    written = _written(source, **given)
    if as_json:
        print_json(written)
        return
    from edgeprune.budget import format_quantity, format_score

    for name, entry in written.items():
        score = ""
        if "score" in entry:
            own, dense = format_score(entry["score"], entry["score_error"]), format_score(entry["model_score"], entry["model_score_error"])
            score = f", {entry['metric']} {own} (the PyTorch model: {dense})"
        echo(f"{name}: {entry['path']} ({format_quantity('size', entry['size_bytes'])}{score})")
        for note in entry["notes"]:
            echo(f"  note: {note}")


def _written(
    source: Path,
    recipe: Path | None,
    formats: str,
    output: Path | None,
    calibration: int,
    channels_last: bool,
    integer_io: bool,
    keep_float: tuple[str, ...],
    input_type: str,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    score: bool,
    **sizes: Any,
) -> dict[str, WrittenFile]:
    from edgeprune.errors import RecipeError
    from edgeprune.export import ExportOptions, export
    from edgeprune.export.formats import calibration_for, find_all
    from edgeprune.export.metadata import task_metadata
    from edgeprune.tuning import score_with_error

    if (mean or std) and input_type != "uint8":
        raise click.UsageError("--mean and --std are for --input-type uint8.")
    wanted = [name.strip() for name in formats.split(",") if name.strip()]
    entries = find_all(wanted)  # what is wrong is said before the recipe's work
    task, model = _loaded(source, recipe, sizes)
    if score and not task.scores:
        raise RecipeError(
            f"task {task.name} cannot be scored", remedy="Remove --score, or give the task `validation` batches or `evaluate`."
        )
    samples = calibration_for(task, entries, calibration)
    metadata = task_metadata(task, model if model is not task.model else None)
    pixels = _normalisation(task, mean, std) if input_type == "uint8" else None
    options = ExportOptions(
        channels_last, integer_io, keep_float, inputs=task.input_names, outputs=task.output_names, metadata=metadata, pixels=pixels
    )
    paths = export(model, task.example_inputs, wanted, output or source.parent, source.stem, calibration=samples, options=options)
    model_score = score_with_error(model, task) if score else None
    return {name: _described(name, path, task, model_score) for name, path in paths.items()}


def _normalisation(task: Task, mean: tuple[float, ...], std: tuple[float, ...]) -> Normalisation:
    """As the command says, else as the task does."""
    from edgeprune.errors import ExportError
    from edgeprune.export.pixels import Normalisation

    if mean or std:
        return Normalisation(mean or (0.0,), std or (1.0,))
    found = Normalisation.of(task.preprocessing)
    if found is None:
        raise ExportError(
            f"the normalisation of the images of {task.name} is not known",
            remedy="Give --mean and --std (0 and 1 if pixels are only divided by 255), or put them into the task's `preprocessing`.",
        )
    return found


def _loaded(source: Path, recipe: Path | None, sizes: dict[str, Any]) -> tuple[Task, nn.Module]:
    """The task, and the model to write."""
    from edgeprune.errors import CheckpointError
    from edgeprune.surgery import load

    if source.suffix == ".py" or is_model_file(source):
        task = load_task(source, asked_options(source, sizes))
        return task, task.model
    if not source.is_file():
        raise CheckpointError(f"checkpoint {source} does not exist", remedy="Give the .safetensors file of a pruning run, or a recipe.")
    if recipe is None:
        raise click.UsageError("A checkpoint needs --recipe: the recipe or the ONNX file that it was pruned from.")
    task = load_task(recipe, asked_options(recipe, sizes))
    return task, load(task.model, source)


class WrittenFile(TypedDict, total=False):
    """A file that was written.  ``score``: of the file, ``model_score``: of the PyTorch model, both in ``metric``, where wanted;
    ``score_error``, ``model_score_error``: their standard errors over the validation samples, where known."""

    path: Required[Path]
    size_bytes: Required[int]
    sizes: Required[SizesDocument | None]
    notes: Required[list[str]]
    metric: str
    score: float
    score_error: float | None
    model_score: float
    model_score_error: float | None


class ShownFile(TypedDict, total=False):
    """What is known of a file; of TFLite files the last four too."""

    path: Required[Path]
    size_bytes: Required[int]
    metadata: Required[JsonObject]
    sizes: Required[SizesDocument | None]
    inputs: list[TensorDescription]
    outputs: list[TensorDescription]
    tensorflow_lite: str
    custom_operators: list[str]


def _described(name: str, path: Path, task: Task, model_score: Score | None) -> WrittenFile:
    from edgeprune.export.metadata import notes_of
    from edgeprune.export.sizes import sizes

    parts = sizes(path)
    entry: WrittenFile = {
        "path": path,
        "size_bytes": path.stat().st_size,
        "sizes": parts.to_json() if parts else None,
        "notes": notes_of(path),
    }
    if model_score is not None:
        from edgeprune.export.evaluate import score_file_with_error

        found = score_file_with_error(path, task, name)
        entry |= {"metric": task.metric_name, "score": found.value, "score_error": found.error}
        entry |= {"model_score": model_score.value, "model_score_error": model_score.error}
    return entry


def _shown(path: Path) -> ShownFile:
    from edgeprune.bench.content import require_content
    from edgeprune.errors import ExportError
    from edgeprune.export import read_metadata
    from edgeprune.export.formats import of_path
    from edgeprune.export.sizes import sizes
    from edgeprune.tflite.graph import read_graph
    from edgeprune.tflite.versions import custom_operators, minimum_runtime

    if not path.is_file():
        raise ExportError(f"{path} does not exist", remedy="--show takes a file that was exported before.")
    require_content(path, of_path(path).engine or "")
    parts = sizes(path)
    found: ShownFile = {
        "path": path,
        "size_bytes": path.stat().st_size,
        "metadata": read_metadata(path),
        "sizes": parts.to_json() if parts else None,
    }
    if engine_of(path.name) == TFLITE:
        content = path.read_bytes()
        graph = read_graph(content, path.name)
        found |= {"inputs": [tensor.describe() for tensor in graph.inputs], "outputs": [tensor.describe() for tensor in graph.outputs]}
        found["tensorflow_lite"] = str(minimum_runtime(path))
        found["custom_operators"] = list(custom_operators(content, path.name))
    return found


def _tensor_line(tensor: TensorDescription) -> str:
    scale = f", value = {tensor['scales'][0]:.6g} * (stored - {tensor['zero_points'][0]})" if tensor["scales"] else ""
    return f"{tensor['name']}: {tensor['dtype']} ({', '.join(map(str, tensor['shape']))}){scale}"


def _print_shown(found: ShownFile) -> None:
    from edgeprune.budget import format_quantity

    def size(value: float) -> str:
        return format_quantity("size", value)

    echo(f"{found['path']}: {size(found['size_bytes'])}")
    if "tensorflow_lite" in found:
        echo(f"needs TensorFlow Lite {found['tensorflow_lite']} or newer")
        if found["custom_operators"]:
            echo(f"and the custom operators {', '.join(found['custom_operators'])}")
    for side, tensors in (("input", found.get("inputs", [])), ("output", found.get("outputs", []))):
        for tensor in tensors:
            echo(f"{side} {_tensor_line(tensor)}")
    for name, value in found["metadata"].items():
        echo(f"{name}: {value}")
    parts = found["sizes"]
    if parts is not None:
        echo(f"weights {size(parts['weights'])}, graph {size(parts['graph'])}, metadata {size(parts['metadata'])}; most weights:")
        for layer in parts["layers"]:
            echo(f"  {layer['name']}: {size(layer['bytes'])}")
