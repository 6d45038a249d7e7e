"""``edgeprune setup``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from edgeprune.cli.options import json_option
from edgeprune.cli.output import echo, print_json, transfer_progress
from edgeprune.decode import JsonObject
from edgeprune.engines import TFLITE

if TYPE_CHECKING:
    from edgeprune.devices.provision import Setup


@click.command(short_help="Install a runtime on a device, from this machine.")
@click.argument("target")
@click.option(
    "--engine", "engines", multiple=True, metavar="ENGINE", help="tflite, torchscript or onnx; can be repeated.  [default: tflite]"
)
@click.option("--runtime", help="The package to install if an engine has several, such as tflite-runtime.")
@click.option("--python", help="The device's Python to use, by name or path.")
@click.option("--index", metavar="URL", help="A second package index, such as torch's index of CPU wheels.")
@click.option("--offline", is_flag=True, help="Use only wheels that an earlier setup downloaded to this machine.")
@click.option("--dry-run", is_flag=True, help="Show what would be installed; change nothing on the device.")
@json_option
def command(
    target: str,
    engines: tuple[str, ...],
    runtime: str | None,
    python: str | None,
    index: str | None,
    offline: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Install the runtime that fits TARGET's Python, architecture and C library into a virtual environment on TARGET.

    Wheels are downloaded on this machine: the device needs no network.  A second call changes nothing; `edgeprune teardown` removes it.
    """
    from edgeprune.devices import resolve_target
    from edgeprune.devices.provision import set_up

    address = resolve_target(target).address
    with transfer_progress(f"connecting to {target}") as show:
        given: dict[str, Any] = {"runtime": runtime, "python": python, "index": index, "offline": offline, "dry_run": dry_run}
        done = set_up(address, engines or (TFLITE,), on_event=show, **given)
    if as_json:
        print_json(_document(done, dry_run))
    else:
        _print(done, dry_run)


def _document(done: Setup, dry_run: bool) -> JsonObject:
    from dataclasses import asdict

    return asdict(done) | {"dry_run": dry_run}


def _print(done: Setup, dry_run: bool) -> None:
    from edgeprune.budget import format_quantity

    size, room = format_quantity("size", done.sent_bytes), format_quantity("size", done.needed_bytes)
    echo(f"{done.address}: {done.python}, made from {done.base}")
    if not done.missing:
        echo("  already there: " + ", ".join(done.wheels))
    else:
        echo(f"  {'would send' if dry_run else 'sent'} {size} in {len(done.missing)} wheels (needs {room} of disk)")
        for name in done.missing:
            echo(f"    {name}")
    for engine, (package, version) in done.runtimes.items():
        echo(f"  {engine}: {package} {version}, works there (imported)")
    if "?python=" in done.address:
        echo(f"  use it by the address without ?python=, or with ?python={done.python}")
