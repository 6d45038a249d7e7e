"""``edgeprune profiles``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgeprune.cli.options import json_option, list_unless_asked
from edgeprune.cli.output import console, echo, print_json
from edgeprune.decode import JsonObject

if TYPE_CHECKING:
    from edgeprune.profile import Fact, Profile


@click.group(invoke_without_command=True, short_help="List the known devices and show their facts.")
@json_option
@click.pass_context
def command(context: click.Context, as_json: bool) -> None:
    """List the known devices and show their facts, each with its source."""
    list_unless_asked(context, list_, as_json)


@command.command(name="list")
@json_option
def list_(as_json: bool) -> None:
    """List the profiles that come with edgeprune."""
    from edgeprune.profile import load, names

    profiles = [load(name) for name in names()]
    if as_json:
        print_json([_brief(profile) for profile in profiles])
        return
    from rich.table import Column, Table

    table = Table(Column("name", no_wrap=True), "device", "processor", "runtime of the prior")
    for profile in profiles:
        table.add_row(
            profile.name, profile.title, f"{profile.cpu.cores} x {profile.cpu.core}", profile.prior.runtime if profile.prior else "none"
        )
    console().print(table)


@command.command()
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """Show all facts of NAME: a profile's name, or the path of your own TOML file.

    [3P] in a source: one unofficial source.  [U]: unverified.
    """
    from edgeprune.profile import load

    profile = load(name)
    if as_json:
        print_json(_brief(profile) | {"match": profile.match, "facts": profile.facts})
        return
    from rich.table import Column, Table

    table = Table(Column("fact", no_wrap=True), "value", "source", title=f"{profile.name}: {profile.title}")
    for key, fact in profile.facts.items():
        table.add_row(key, _value(fact), fact.source)
    console().print(table)
    echo("Predictions from a profile are not measurements.")


def _brief(profile: Profile) -> JsonObject:
    return {
        "name": profile.name,
        "title": profile.title,
        "cpu": profile.cpu,
        "memory": profile.memory,
        "prior": profile.prior,
        "power": profile.power,
    }


def _value(fact: Fact) -> str:
    if isinstance(fact.value, str):
        return fact.value
    if fact.unit in ("Hz", "B", "B/s", "MAC/s"):
        for prefix, factor in (("G", 1e9), ("M", 1e6)):
            if fact.value >= factor:
                return f"{fact.value / factor:.3g} {prefix}{fact.unit}"
    return f"{fact.value:.4g} {fact.unit}"
