"""``edgeprune doctor``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from edgeprune.cli.options import json_option
from edgeprune.cli.output import console, print_json

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.table import Table

    from edgeprune.cli.checks import Check

MARKS = {"ok": ("ok", "green"), "warning": ("warning", "yellow"), "missing": ("missing", "cyan"), "broken": ("BROKEN", "bold red")}


@click.command(short_help="Check what works on this machine and on a device.")
@click.option("--target", metavar="TARGET", help="Check this device too: a name, local:, ssh://user@host; or several: pi4,pi5.")
@json_option
def command(target: str | None, as_json: bool) -> int:
    """Check what works on this machine, and with --target on a device, and say what to do about the rest.

    `missing` is needed by some jobs only. The exit code is 0 unless something is broken that edgeprune, or the device, needs.
    """
    from edgeprune.cli.checks import host_checks
    from edgeprune.cli.target_checks import target_checks
    from edgeprune.devices.targets import resolve_targets

    targets = resolve_targets(target) if target else []
    found = {"this machine": _shown("this machine", host_checks(), as_json)}
    for one in targets:
        found[one.name] = _shown(one.name, target_checks(one), as_json)
    broken = sum(check.state == "broken" for checks in found.values() for check in checks)
    if as_json:
        print_json({"checks": [{"where": where} | asdict(check) for where, checks in found.items() for check in checks], "broken": broken})
    else:
        console().print(f"\n{broken} broken" if broken else "\nNothing that is needed is broken.", highlight=False)
    return 1 if broken else 0


def _shown(where: str, checks: Iterable[Check], quiet: bool) -> list[Check]:
    """The checks, each printed as soon as it is made."""
    made: list[Check] = []
    out = console()
    if not quiet:
        out.print(where, style="bold", highlight=False)
    for check in checks:
        made.append(check)
        if not quiet:
            out.print(_line(check))
    return made


def _line(check: Check) -> Table:
    """State, name and what was found, and below it the remedy; what is long continues below itself."""
    from rich.table import Table
    from rich.text import Text

    line = Table.grid(padding=(0, 1))
    for width in (8, 18):
        line.add_column(width=width)
    line.add_column()
    text, style = MARKS[check.state]
    line.add_row(Text(text, style), Text(check.name), Text(check.found))
    if check.remedy and check.state != "ok":
        line.add_row("", "", Text(check.remedy, "dim"))
    return line
