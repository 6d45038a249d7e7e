"""How results are printed: tables of measurements, comparisons, gates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgeprune.budget import format_quantity
from edgeprune.cli.output import console
from edgeprune.engines import CPU

if TYPE_CHECKING:
    from rich.text import Text

    from edgeprune.bench import Measurement, Ratio, Report
    from edgeprune.bench.compare import Change
    from edgeprune.bench.limits import Judged

_COLOURS = {"passed": "green", "failed": "red", "inconclusive": "yellow"}


def print_report(report: Report) -> None:
    """A table for each thread count, ratios, and warnings."""
    from rich.table import Table
    from rich.text import Text

    out = console()
    out.print(Text.assemble((report.device.address, "bold"), f"  {report.device.identity}"))
    groups = [comparison.measurements for comparison in report.comparisons] or [(item,) for item in report.measurements]
    for group in groups:
        columns = [facts(item) for item in group]
        table = Table("", *(item.name for item in group))
        for fact in dict.fromkeys(fact for column in columns for fact in column):
            table.add_row(fact, *(column.get(fact, "") for column in columns))
        out.print(table)
    for comparison in report.comparisons:
        for ratio in comparison.ratios:
            out.print(ratio_text(ratio, comparison.measurements[0].name))
    if report.best_threads:
        out.print(f"best number of threads: {report.best_threads}")
    for warning in sorted({f"{item.name}: {warning}" for group in groups for item in group for warning in item.warnings}):
        out.print(_marked("warning", "yellow", warning))


def print_judged(judged: Sequence[Judged]) -> None:
    """The change from an earlier result, and what each gate says."""
    out = console()
    for item in judged:
        if item.change:
            print_change(item.change)
        for said in item.judgements:
            colour = _COLOURS[said.state]
            threads = f" ({item.measurement.threads} threads)" if len(judged) > 1 else ""
            out.print(_marked(said.state, colour, f"{said.gate.text}{threads}: {said.message}"))


def _marked(word: str, colour: str, text: str) -> Text:
    """A coloured word before a text."""
    from rich.text import Text

    return Text.assemble((word, colour), f" {text}")


def print_change(change: Change) -> None:
    """From one stored result to another."""
    out = console()
    a, b = change.a, change.b
    for what, (one, other) in change.differences.items():
        out.print(_marked("warning", "yellow", f"different {what}: {one} and {other}"), soft_wrap=True)
    out.print(f"{a.name}: {format_quantity('latency', a.latency_ms)}; {b.name}: {format_quantity('latency', b.latency_ms)}")
    out.print(ratio_text(change.ratio, a.name if a.name != b.name else "the earlier") + f" ({change.spread})")
    out.print(
        f"peak memory {format_quantity('memory', a.peak_bytes)} and {format_quantity('memory', b.peak_bytes)}, "
        f"file {format_quantity('size', a.file_bytes)} and {format_quantity('size', b.file_bytes)}"
    )


def ratio_text(ratio: Ratio, base: str) -> str:
    """A ratio with its interval and verdict, in words."""
    return f"{ratio.name} takes {ratio.ratio:.3f} ({ratio.low:.3f} to {ratio.high:.3f}) of {base}'s time: {ratio.verdict}"


def facts(item: Measurement) -> dict[str, str]:
    """What is known of a measurement, by name, as texts."""

    def ms(value: float) -> str:
        return format_quantity("latency", value)

    found = {
        "runtime": f"{item.runtime} {item.runtime_version}",
        **_accelerated(item),
        "threads": str(item.threads) + (f" on processors {', '.join(map(str, item.cpus))}" if item.cpus else ""),
        "median latency": ms(item.latency_ms) + ("" if item.stable else " (unstable)"),
        "95 % interval": f"{ms(item.low_ms)} to {ms(item.high_ms)}",
        "90 %, 99 %": f"{ms(item.p90_ms)}, {ms(item.p99_ms)}",
        "load, first run": f"{ms(item.load_ms)}, {ms(item.first_ms)}",
        "cold start": "not reported" if item.cold_ms is None else ms(item.cold_ms),
        "peak memory": format_quantity("memory", item.peak_bytes),
        "energy": "not measured" if item.energy_mj is None else f"{format_quantity('energy', item.energy_mj)} ({item.energy_method})",
        "file size": format_quantity("size", item.file_bytes),
    }
    if item.tuned:
        found["clocks held by"] = ", ".join(item.tuned)
    if item.operators:
        slowest = sorted(item.operators, key=lambda operator: -float(operator["ms"]))[:5]
        found["slowest operators"] = "\n".join(f"{operator['type']} {ms(operator['ms'])}" for operator in slowest)
    return found


def _accelerated(item: Measurement) -> dict[str, str]:
    """What ran it, where that is not the processor."""
    if item.accelerator == CPU:
        return {}
    share = "not reported" if item.delegated is None else f"{item.delegated:.1%}".replace(".0%", "%")
    return {"accelerator": item.accelerator, "operators on it": share}


def print_fleet(rows: Sequence[tuple[str, Report | None, str]]) -> None:
    """One table of all devices; of each its name, what was measured, and a note."""
    from rich.table import Table
    from rich.text import Text

    table = Table("target", "threads", "median latency", "95 % interval", "peak memory", "ratio", "")
    for name, report, note in rows:
        measured = [] if report is None else list(report.measurements) or [item.measurements[1] for item in report.comparisons]
        if not measured:
            table.add_row(name, "", "", "", "", "", Text(note, style="red"))
        for number, item in enumerate(measured):
            known = facts(item)
            ratio = report.comparisons[number].ratios[0] if report and report.comparisons else None
            compared = f"{ratio.ratio:.3f} {ratio.verdict}" if ratio else ""
            cells = (known[key] for key in ("median latency", "95 % interval", "peak memory"))
            table.add_row("" if number else name, str(item.threads), *cells, compared, Text("" if number else note, style="red"))
    console().print(table)
