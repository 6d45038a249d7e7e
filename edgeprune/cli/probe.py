"""``edgeprune probe``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgeprune.cli.options import json_option
from edgeprune.cli.output import console, print_json

if TYPE_CHECKING:
    from edgeprune.bench import DeviceInfo


@click.command(short_help="Say what a device is: processor, memory, runtimes, meters.")
@click.argument("target")
@json_option
def command(target: str, as_json: bool) -> None:
    """Say what TARGET (a name, local:, or ssh://user@host) is.  Nothing is measured, and nobody is waited for."""
    from edgeprune.bench import probe

    info = probe(target)
    if as_json:
        print_json(info.to_json())
    else:
        _print(info)


def _print(info: DeviceInfo) -> None:
    from rich.table import Table

    from edgeprune.budget import format_quantity

    state = info.conditions
    temperatures = ", ".join(f"{zone} {value:.0f} C" for zone, value in state.get("temperatures_c", {}).items())
    runtimes = [f"{engine}: {name} {version}" for engine, (name, version) in info.runtimes.items()]
    runtimes += [f"{engine}: [red]{reason}[/red]" for engine, reason in info.broken.items()]
    rows = {
        "address": info.address,
        "board": info.board or "unknown",
        "processor": f"{info.cpu}, {info.arch}, {info.cores} cores" + (f", {info.max_mhz:.0f} MHz" if info.max_mhz else ""),
        "features": " ".join(info.features) or "none known",
        "clock governor": state.get("governor") or "not told",
        "memory": format_quantity("memory", info.memory_bytes),
        "system": f"{info.os}, Linux {info.kernel}, {info.libc}",
        "python": f"{info.python} ({info.python_path})" if info.python else "none",
        "runtimes": "\n".join(runtimes) or "none",
        "energy meters": ", ".join(info.meters) or "none",
        "temperatures": temperatures or "not told",
        "profile": info.profile or "none matches",
    }
    if battery := state.get("battery"):
        level, heat = battery["level_percent"], battery["temperature_c"]
        rows["battery"] = f"battery {level:.0f} %, {heat} C, {battery['status']}" + (", plugged in" if battery["plugged"] else "")
    if heat_status := state.get("thermal_status"):
        rows["throttling"] = heat_status
    table = Table(show_header=False)
    for name, value in rows.items():
        table.add_row(name, value)
    console().print(table)
