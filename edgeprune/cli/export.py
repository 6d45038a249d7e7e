"""``edgeprune export``."""

from __future__ import annotations

from pathlib import Path

import click

from edgeprune.cli.options import json_option
from edgeprune.cli.output import print_json


@click.command(short_help="Write a pruned checkpoint in formats that devices run.")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--recipe", required=True, type=click.Path(path_type=Path), help="The recipe that the checkpoint was pruned from.")
@click.option(
    "--format", "formats", default="tflite", show_default=True, metavar="NAMES", help="Joined by commas: tflite, torchscript, pt2."
)
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), help="Folder of the files; the checkpoint's unless given.")
@json_option
def command(checkpoint: Path, recipe: Path, formats: str, output: Path | None, as_json: bool) -> None:
    """Write CHECKPOINT (a pruned model's .safetensors) in formats that devices run, each compared with the PyTorch model."""
    from edgeprune.errors import CheckpointError
    from edgeprune.export import export
    from edgeprune.export.formats import find_all
    from edgeprune.surgery import load
    from edgeprune.task import load_recipe

    wanted = [name.strip() for name in formats.split(",") if name.strip()]
    find_all(wanted)  # what is wrong is said before the recipe's work
    if not checkpoint.is_file():
        raise CheckpointError(f"checkpoint {checkpoint} does not exist", remedy="Give the .safetensors file of a pruning run.")
    task = load_recipe(recipe)
    model = load(task.model, checkpoint)
    paths = export(model, task.example_inputs, wanted, output or checkpoint.parent, checkpoint.stem)
    if as_json:
        print_json({name: {"path": path, "size_bytes": path.stat().st_size} for name, path in paths.items()})
        return
    from edgeprune.budget import format_quantity

    for name, path in paths.items():
        click.echo(f"{name}: {path} ({format_quantity('size', path.stat().st_size)})")
