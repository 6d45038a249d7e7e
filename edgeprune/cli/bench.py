"""``edgeprune bench``."""

from __future__ import annotations

import re
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeprune.cli.options import json_option
from edgeprune.cli.output import console, print_json

if TYPE_CHECKING:
    from edgeprune.bench import Measurement, Report

_INPUT = re.compile(r"(\d+(?:x\d+)*)(?::([a-z]+\d*))?")


def parse_threads(_: click.Context, __: click.Parameter, text: str | None) -> tuple[int, ...]:
    """``1,2,4`` as numbers."""
    try:
        counts = tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError:
        counts = (0,)
    if any(count < 1 for count in counts):
        raise click.BadParameter(f"{text!r} is no list of numbers of threads, such as 1,2,4")
    return counts


def parse_inputs(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> tuple[tuple[tuple[int, ...], str], ...]:
    """``1x3x224x224:float32`` as (shape, dtype); float32 unless given."""
    inputs = []
    for text in texts:
        match = _INPUT.fullmatch(text)
        if not match:
            raise click.BadParameter(f"{text!r} is no shape, such as 1x3x224x224 or 1x16:int64")
        inputs.append((tuple(int(size) for size in match[1].split("x")), match[2] or "float32"))
    return tuple(inputs)


@click.command(short_help="Measure an exported model on a device, or compare two.")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--target", default="local:", show_default=True, help="A target's name, local:, or ssh://user@host:port.")
@click.option("--against", type=click.Path(path_type=Path), help="A baseline, measured in turns with MODEL.")
@click.option("--threads", callback=parse_threads, help="Numbers of threads, such as 1,2,4; by default the device's cores, at most 4.")
@click.option(
    "--input", "inputs", multiple=True, callback=parse_inputs, help="An input's shape, such as 1x3x32x32, where the file has none."
)
@click.option("--min-time", type=click.FloatRange(min=0.05), help="Least seconds of sampling a model.")
@click.option("--max-time", type=click.FloatRange(min=0.05), help="Most seconds of sampling a model.")
@json_option
def command(
    model: Path,
    target: str,
    against: Path | None,
    threads: tuple[int, ...],
    inputs: tuple[tuple[tuple[int, ...], str], ...],
    min_time: float | None,
    max_time: float | None,
    as_json: bool,
) -> None:
    """Measure MODEL (.tflite, .pt) on a device: latency with its interval, peak memory, energy where there is a meter."""
    from edgeprune.bench import Artifact, BenchOptions, bench

    standard = BenchOptions()
    options = replace(standard, min_time_s=min_time or standard.min_time_s, max_time_s=max_time or standard.max_time_s)
    baseline = Artifact(against, inputs=inputs) if against else None
    with ExitStack() as stack:
        on_event = _show_events(stack, target)
        report = bench(Artifact(model, inputs=inputs), target, baseline, threads, options, on_event)
    if as_json:
        print_json(report.to_json())
    else:
        _print(report)


def _show_events(stack: ExitStack, target: str) -> Any:
    """A line on stderr that says what is being done."""
    from rich.console import Console

    status = stack.enter_context(Console(stderr=True).status(f"connecting to {target}"))
    texts = {
        "waiting": "waiting: in use by {holder}",
        "upload": "sending {name}",
        "measuring": "measuring {name}",
        "measured": "{name}: {median_ms:.3f} ms",
        "round": "comparing: round {number}",
    }

    def show(event: dict[str, Any]) -> None:
        if text := texts.get(event["event"]):
            status.update(text.format(**event))

    return show


def _print(report: Report) -> None:
    from rich.table import Table

    out = console()
    out.print(f"[bold]{report.device.address}[/bold]  {report.device.identity}")
    groups = [comparison.measurements for comparison in report.comparisons] or [(item,) for item in report.measurements]
    for group in groups:
        columns = [_facts(item) for item in group]
        table = Table("", *(item.name for item in group))
        for fact in columns[0]:
            table.add_row(fact, *(column[fact] for column in columns))
        out.print(table)
    for comparison in report.comparisons:
        base = comparison.measurements[0]
        for ratio in comparison.ratios:
            out.print(f"{ratio.name} takes {ratio.ratio:.3f} ({ratio.low:.3f} to {ratio.high:.3f}) of {base.name}'s time: {ratio.verdict}")
    for warning in sorted({f"{item.name}: {warning}" for group in groups for item in group for warning in item.warnings}):
        out.print(f"[yellow]warning[/yellow] {warning}")


def _facts(item: Measurement) -> dict[str, str]:
    from edgeprune.budget import format_quantity

    def ms(value: float) -> str:
        return format_quantity("latency", value)

    return {
        "runtime": f"{item.runtime} {item.runtime_version}",
        "threads": str(item.threads),
        "median latency": ms(item.latency_ms) + ("" if item.stable else " (unstable)"),
        "95 % interval": f"{ms(item.low_ms)} to {ms(item.high_ms)}",
        "90 %, 99 %": f"{ms(item.p90_ms)}, {ms(item.p99_ms)}",
        "load, first run": f"{ms(item.load_ms)}, {ms(item.first_ms)}",
        "peak memory": format_quantity("memory", item.peak_bytes),
        "energy": "no meter" if item.energy_mj is None else f"{format_quantity('energy', item.energy_mj)} ({item.energy_method})",
        "file size": format_quantity("size", item.file_bytes),
    }
