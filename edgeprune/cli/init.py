"""``edgeprune init``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeprune.cli.options import json_option
from edgeprune.cli.output import echo, print_json

if TYPE_CHECKING:
    from edgeprune.starters import Starter

KINDS = {
    "torchvision": "a classifier of torchvision",
    "timm": "a classifier of timm",
    "transformers": "a classifier of texts of Hugging Face",
    "onnx": "a trained classifier in an ONNX file",
    "detection": "a detector of torchvision",
    "segmentation": "a network of segmentation of torchvision",
}
NEEDS = {"transformers": ("data",), "segmentation": ("images", "masks")}
"""The options that a kind needs beside its own; all others --images."""
FIRST = {"torchvision": "mobilenet_v3_small", "timm": "mobilenetv3_small_100", "transformers": None, "onnx": None}
FIRST |= {"detection": "ssdlite320_mobilenet_v3_large", "segmentation": "lraspp_mobilenet_v3_large"}
ASKED = {
    "images": "The folder of the pictures",
    "masks": "The folder of their masks",
    "data": "The CSV file with the columns text,label",
}


@click.command(short_help="Write a recipe for a model and data that you name.")
@click.option("--torchvision", metavar="NAME", help="A classifier of torchvision, on --images.")
@click.option("--timm", metavar="NAME", help="A classifier of timm, on --images.")
@click.option("--transformers", metavar="DIR|NAME", help="A classifier of texts of Hugging Face, on --data.")
@click.option("--onnx", metavar="FILE", help="A trained classifier in an ONNX file, on --images.")
@click.option("--detection", metavar="NAME", help="A detector of torchvision, on --images with boxes (COCO or Pascal VOC).")
@click.option("--segmentation", metavar="NAME", help="A network of segmentation of torchvision, on --images and --masks.")
@click.option("--images", metavar="DIR", help="Pictures: <class>/*, or train/ and val/ of these; of detectors with their boxes.")
@click.option("--masks", metavar="DIR", help="A mask for every picture, of the same name: class numbers.")
@click.option("--data", metavar="FILE", help="A CSV file with the columns text,label.")
@click.option(
    "--weights",
    metavar="WHICH",
    default="default",
    show_default=True,
    help="default (the library's), none (it is trained once), or your own state_dict's file.",
)
@click.option("--size", type=click.IntRange(16, 4096), metavar="PIXELS", help="Side of the pictures [default: the model's].")
@click.option("--output", metavar="FILE", help="The recipe's file [default: the model's name].")
@click.option("--force", is_flag=True, help="Overwrite the file.")
@json_option
def command(weights: str, size: int | None, output: str | None, force: bool, as_json: bool, **chosen: str | None) -> None:
    """Write a recipe that runs as it is, for a model and data that you name; asks for them when none is named.

    Where a folder has no parts of its own, every fifth picture of a class is scored on.  A head for other classes than the model has is
    replaced, and trained once when the recipe is first run.
    """
    kinds = [kind for kind in KINDS if chosen[kind]]
    if len(kinds) > 1:
        raise click.UsageError(f"--{kinds[0]} and --{kinds[1]} are two models: name one.")
    kind = kinds[0] if kinds else _ask_kind()
    if not kinds:
        chosen[kind] = click.prompt("Which one" if FIRST[kind] else "Where it is", default=FIRST[kind], err=True)
    for option in NEEDS.get(kind, ("images",)):
        if not chosen[option]:
            if kinds:
                raise click.UsageError(f"--{kind} needs --{option} too: {ASKED[option].lower()}.")
            chosen[option] = click.prompt(ASKED[option], err=True)
    known = {kind, *NEEDS.get(kind, ("images",))}
    if extra := [name for name, value in chosen.items() if value and name not in known]:
        raise click.UsageError(f"--{extra[0]} says nothing of --{kind}.")
    starter = _starter(kind, {name: str(chosen[name]) for name in known}, weights, size, output, force)
    _show(starter, Path(output or f"{starter.name}.py"), as_json)


def _ask_kind() -> str:
    if not sys.stdin.isatty():
        options = ", ".join(f"--{kind}" for kind in KINDS)
        raise click.UsageError(f"Name the model, one of {options}; in a terminal edgeprune init asks.")
    for kind, what in KINDS.items():
        click.echo(f"  {kind}: {what}", err=True)
    answer: str = click.prompt("What is to be pruned", type=click.Choice(list(KINDS)), default="torchvision", err=True)
    return answer


def _starter(kind: str, chosen: dict[str, str], weights: str, size: int | None, output: str | None, force: bool) -> Starter:
    """Make the recipe and write it; refuse a file that is there before anything is downloaded."""
    from edgeprune import starters

    if output is not None:
        starters.check(Path(output), force)
    name, paths = chosen[kind], {option: Path(value) for option, value in chosen.items() if option != kind}
    if kind == "onnx":
        made = starters.onnx(Path(name), **paths, size=size)
    elif kind == "transformers":
        made = starters.transformers(name, **paths, weights=weights)
    else:
        made = getattr(starters, kind)(name, **paths, weights=weights, size=size)
    starters.write(made, Path(output or f"{made.name}.py"), force)
    return made


def _show(starter: Starter, path: Path, as_json: bool) -> None:
    then = f"edgeprune prune {shlex.quote(str(path))} --profile raspberry-pi-4 --latency 50%"
    if as_json:
        print_json({"recipe": str(path), "says": starter.says, "next": then})
        return
    echo(f"{path} is written.")
    for line in starter.says:
        echo(line)
    echo(f"\n{then}")
