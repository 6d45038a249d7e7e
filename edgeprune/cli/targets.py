"""``edgeprune targets``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from edgeprune.cli.options import json_option
from edgeprune.cli.output import console, echo, print_json, show_error
from edgeprune.decode import JsonObject

if TYPE_CHECKING:
    from edgeprune.devices import Target


@click.group(short_help="Manage names for devices.")
def command() -> None:
    """Manage names for devices, kept in the user's configuration folder."""


@command.command()
@click.argument("name")
@click.argument("address")
@click.option("--profile", help="Name of the device's profile [default: found by probing].")
@click.option("--accelerator", metavar="NAME", help="What runs its models: gpu, npu, a provider, a delegate's path [default: cpu].")
@click.option("--replace", is_flag=True, help="Replace NAME if it exists.")
def add(name: str, address: str, profile: str | None, accelerator: str | None, replace: bool) -> None:
    """Add NAME as a name for ADDRESS (ssh://user@host:port)."""
    from edgeprune.bench.results import check_accelerator
    from edgeprune.devices.targets import add_target

    check_accelerator(accelerator)
    target = add_target(name, address, profile, accelerator=accelerator, replace=replace)
    about = ", ".join(filter(None, (target.profile, target.accelerator)))
    echo(f"{target.name}: {target.address}" + (f" ({about})" if about else ""))


@command.command()
@click.argument("name")
@click.argument("members", nargs=-1, required=True)
@click.option("--replace", is_flag=True, help="Replace the group NAME if it exists.")
def group(name: str, members: tuple[str, ...], replace: bool) -> None:
    """Add NAME as a group of targets.  edgeprune bench --target NAME measures on all of them, side by side."""
    from edgeprune.devices.targets import add_group

    echo(f"{name}: {', '.join(add_group(name, members, replace=replace))}")


@command.command(name="list")
@json_option
def list_(as_json: bool) -> None:
    """List the names, groups last."""
    from edgeprune.devices.targets import damaged_entries, list_groups, list_targets

    targets, groups = list_targets(), list_groups()
    for flaw in damaged_entries():
        show_error(flaw, "Repair it there, or add it again with --replace.")
    if as_json:
        print_json([_document(target) for target in targets] + [{"name": name, "members": members} for name, members in groups.items()])
        return
    if not targets and not groups:
        echo("No targets yet.  Add one: edgeprune targets add NAME ssh://user@host")
        return
    from rich.table import Table

    table = Table("name", "address", "profile", *(["accelerator"] if any(target.accelerator for target in targets) else []))
    for target in targets:
        table.add_row(target.name, target.address, target.profile or "", *([target.accelerator] if target.accelerator else []))
    for name, members in groups.items():
        table.add_row(name, f"group: {', '.join(members)}", "")
    console().print(table)


def _document(target: Target) -> JsonObject:
    """As plain JSON values; the processor is not mentioned."""
    return {name: value for name, value in asdict(target).items() if name != "accelerator" or value is not None}


@command.command()
@click.argument("name")
def remove(name: str) -> None:
    """Remove NAME, also from its groups."""
    from edgeprune.devices.targets import remove_target

    remove_target(name)
    echo(f"{name} is removed.")
