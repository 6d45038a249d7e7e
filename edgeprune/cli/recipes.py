"""``edgeprune recipes``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from edgeprune.cli.options import json_option, list_unless_asked
from edgeprune.cli.output import console, echo, print_json


@click.group(invoke_without_command=True, short_help="List the ready recipes, show and copy them.")
@json_option
@click.pass_context
def command(context: click.Context, as_json: bool) -> None:
    """List the ready recipes on real data, show them, and copy them to start from."""
    list_unless_asked(context, list_, as_json)


@command.command(name="list")
@json_option
def list_(as_json: bool) -> None:
    """List the recipes that come with edgeprune."""
    from edgeprune.shipped import names, recipe

    recipes = [recipe(name) for name in names()]
    if as_json:
        print_json([asdict(each) for each in recipes])
        return
    from rich.table import Column, Table

    table = Table(Column("name", no_wrap=True), "task", "data", "packages beside edgeprune's")
    for each in recipes:
        table.add_row(each.name, each.title, ", ".join(data.title for data in each.data) or "none to fetch", ", ".join(each.needs))
    console().print(table)
    echo("edgeprune recipes show NAME says where its data are from; edgeprune recipes copy NAME puts it here.")


@command.command()
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """Show what the recipe NAME does, where its data are from, and what it needs."""
    from edgeprune.shipped import recipe

    found = recipe(name)
    if as_json:
        print_json(asdict(found))
        return
    echo(f"{found.name}\n\n{found.text}\n")
    for data in found.data:
        echo(f"data: {data.title}: {data.fetch or 'see above'}; EDGEPRUNE_DATA names the folder.")
    echo(f"files: {', '.join(found.files)}")
    if found.needs:
        echo(f"packages: {', '.join(found.needs)}" + (f" (not here: pip install {' '.join(found.missing)})" if found.missing else ""))
    echo(f"\nedgeprune recipes copy {found.name}")


@command.command()
@click.argument("name")
@click.argument("folder", default=".", metavar="[DIR]", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Overwrite files that are there.")
def copy(name: str, folder: Path, force: bool) -> None:
    """Copy the recipe NAME, and the files that it imports, into DIR [default: here]."""
    from edgeprune.shipped import copy as copied
    from edgeprune.shipped import recipe

    paths = copied(name, folder, force)
    for path in paths:
        echo(str(path))
    found = recipe(name)
    if found.missing:
        echo(f"\npip install {' '.join(found.missing)}")
    for data in found.data:
        echo(f"\nIt reads {data.title}: {data.fetch or 'see the top of the file'}; EDGEPRUNE_DATA names the folder.")
    echo(f"\nedgeprune prune {paths[0]} --profile raspberry-pi-4 --latency 50%")
