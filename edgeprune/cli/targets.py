"""``edgeprune targets``."""

from __future__ import annotations

import click

from edgeprune.cli.options import json_option
from edgeprune.cli.output import console, print_json


@click.group(short_help="Keep names for devices.")
def command() -> None:
    """Keep names for devices, in the user's configuration folder."""


@command.command()
@click.argument("name")
@click.argument("address")
@click.option("--profile", help="Name of the device's profile; found by probing unless given.")
def add(name: str, address: str, profile: str | None) -> None:
    """Let NAME stand for ADDRESS (ssh://user@host:port)."""
    from edgeprune.devices.targets import add_target

    target = add_target(name, address, profile)
    click.echo(f"{target.name}: {target.address}" + (f" ({target.profile})" if target.profile else ""))


@command.command(name="list")
@json_option
def list_(as_json: bool) -> None:
    """List the names."""
    from edgeprune.devices.targets import list_targets

    targets = list_targets()
    if as_json:
        print_json(targets)
        return
    if not targets:
        click.echo("No targets yet.  Add one: edgeprune targets add NAME ssh://user@host")
        return
    from rich.table import Table

    table = Table("name", "address", "profile")
    for target in targets:
        table.add_row(target.name, target.address, target.profile or "")
    console().print(table)


@command.command()
@click.argument("name")
def remove(name: str) -> None:
    """Forget NAME."""
    from edgeprune.devices.targets import remove_target

    remove_target(name)
    click.echo(f"{name} is forgotten.")
