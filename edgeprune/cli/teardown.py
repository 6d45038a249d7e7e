"""``edgeprune teardown``."""

from __future__ import annotations

import click

from edgeprune.cli.options import json_option
from edgeprune.cli.output import echo, print_json


@click.command(short_help="Remove everything that edgeprune put on a device.")
@click.argument("target")
@click.option("--dry-run", is_flag=True, help="List what would be removed.")
@json_option
def command(target: str, dry_run: bool, as_json: bool) -> None:
    """Remove edgeprune's environment, runners, sessions and lock from TARGET.  It waits up to a minute if the device is in use."""
    from edgeprune.budget import format_quantity
    from edgeprune.devices import resolve_target
    from edgeprune.devices.clear import tear_down

    address = resolve_target(target).address
    removed = tear_down(address, dry_run=dry_run)
    if as_json:
        print_json({"address": address, "dry_run": dry_run, "removed": removed})
        return
    for item in removed:
        echo(f"{'would remove' if dry_run else 'removed'} {item.path} ({format_quantity('size', item.bytes)})")
    if not removed:
        echo(f"{address} has nothing of edgeprune.")
