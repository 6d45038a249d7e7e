"""The summary of a run, on the console."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edgeprune.report.summary import Run, grouped_warnings, headline, next_step, rows, title, verdicts
from edgeprune.runs.summary import RunSummary
from edgeprune.verdict import Verdict

WIDE = 100
"""Columns of a terminal from which a figure has one line."""


def console_table(run: Run, console: Console) -> None:
    """Print before and after, the budgets and the warnings of ``run`` (see :mod:`edgeprune.report.summary`)."""
    run = RunSummary.of(run)
    console.print(_wide(run) if console.width >= WIDE else _narrow(run))
    marks = {Verdict.MET: "[green]met[/]", Verdict.MISSED: "[red]missed[/]", Verdict.UNDECIDED: "[yellow]undecided[/]"}
    for one in verdicts(run):
        console.print(f"  {marks[one.verdict]}  {one.kind}: {escape(one.value)}, at most {escape(one.limit)}", highlight=False)
    sentence, verdict = headline(run)
    styles = {Verdict.MET: "bold green", Verdict.MISSED: "bold red", Verdict.UNDECIDED: "bold"}
    console.print(escape(sentence), style=styles[verdict], highlight=False)
    if advice := next_step(run):
        console.print(escape(advice), highlight=False)
    for warning in grouped_warnings(run.warnings):
        models = f" ({warning.models})" if warning.models else ""
        console.print(f"[yellow]warning:[/] {escape(warning.text)}{models}", highlight=False)


def _wide(run: RunSummary) -> Table:
    table = Table(title=escape(title(run)), title_justify="left")
    for name in ("", "dense", "pruned", "pruned / dense"):
        table.add_column(name, justify="left" if not name else "right")
    for row in rows(run):
        table.add_row(*(escape(text) for text in (row.name, row.dense, row.pruned, row.change)))
    return table


def _narrow(run: RunSummary) -> Table:
    """The same in 80 columns: intervals stand below their figures."""
    table = Table(title=escape(title(run)), title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("", max_width=24)
    for name in ("dense", "pruned", "pruned / dense"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows(run):
        values = (text.replace(" [", "\n[") for text in (row.dense, row.pruned, row.change))
        table.add_row(escape(row.name), *map(escape, values))
    return table
