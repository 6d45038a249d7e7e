"""``edgeprune probe``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgeprune.cli.options import json_option
from edgeprune.cli.output import console, error_json, failures_code, print_json, show_error

if TYPE_CHECKING:
    from edgeprune.bench import DeviceInfo


@click.command(short_help="Describe a device: processor, memory, runtimes, meters.")
@click.argument("target")
@json_option
def command(target: str, as_json: bool) -> int:
    """Describe TARGET (a name, a group, local:, ssh://user@host; or several: pi4,pi5).  It measures nothing and waits for no lock.

    With several targets, the exit code is 10 plus the number of targets that failed.
    """
    from edgeprune.bench import probe
    from edgeprune.bench.fleet import side_by_side
    from edgeprune.devices.targets import resolve_targets

    targets = resolve_targets(target)
    outcomes = side_by_side(targets, lambda one, _: probe(one.name))
    alone = outcomes[0] if len(outcomes) == 1 else None
    if alone and alone.error:
        raise alone.error
    if as_json:
        documents = [{"target": one.target.name} | (one.result.to_json() if one.result else error_json(one.error)) for one in outcomes]
        print_json(documents[0] if alone else {"devices": documents})
    else:
        for one in outcomes:
            if one.result:
                _print(one.result)
            elif one.error:
                show_error(f"{one.target.name}: {one.error.message}", one.error.remedy)
    return failures_code([one.error for one in outcomes])


def _print(info: DeviceInfo) -> None:
    from rich.table import Table

    from edgeprune.budget import format_quantity

    state = info.conditions
    temperatures = ", ".join(f"{zone} {value:.0f} C" for zone, value in state.get("temperatures_c", {}).items())
    runtimes = [f"{engine}: {name} {version}" for engine, (name, version) in info.runtimes.items()]
    runtimes += [f"{engine}: cannot be used: {reason}" for engine, reason in info.broken.items()]
    rows = {
        "address": info.address,
        "board": info.board or "unknown",
        "processor": f"{info.cpu}, {info.arch}, {info.cores} cores" + (f", {info.max_mhz:.0f} MHz" if info.max_mhz else ""),
        "features": " ".join(info.features) or "none known",
        "clock governor": state.get("governor") or "not reported",
        "memory": format_quantity("memory", info.memory_bytes),
        "system": f"{info.os}, Linux {info.kernel}, {info.libc}",
        "python": f"{info.python} ({info.python_path})" if info.python else "none",
        "runtimes": "\n".join(runtimes) or "none",
        "accelerators": "\n".join(f"{one.engine or 'there'}: {one.name}: {one.what}" for one in info.accelerators) or "none found",
        "energy meters": ", ".join(info.meters) or "none",
        "temperatures": temperatures or "not reported",
        "profile": info.profile or "none matches",
    }
    if battery := state.get("battery"):
        level, heat = battery["level_percent"], battery["temperature_c"]
        rows["battery"] = f"battery {level:.0f} %, {heat} C, {battery['status']}" + (", plugged in" if battery["plugged"] else "")
    if heat_status := state.get("thermal_status"):
        rows["throttling"] = str(heat_status)
    table = Table(show_header=False)
    for name, value in rows.items():
        table.add_row(name, value)
    console().print(table)
