"""The report of a run: one HTML file with everything in it, no script and no outside asset."""

from __future__ import annotations

from pathlib import Path

from edgeprune.budget import format_score
from edgeprune.files import write_atomically
from edgeprune.report import sections, vega
from edgeprune.report.snippets import files
from edgeprune.report.summary import DASH, Run, grouped_warnings, headline, label, next_step, rows, title, verdicts
from edgeprune.report.templates import render
from edgeprune.runs.summary import RunSummary
from edgeprune.verdict import Verdict

MARKS = {
    Verdict.MET: {"style": "good", "text": "✓ met"},
    Verdict.MISSED: {"style": "bad", "text": "✗ missed"},
    Verdict.UNDECIDED: {"style": "warn", "text": "undecided"},
}
NO_CHARTS = (
    "Charts are left out, and all their figures are in the tables: pip install vl-convert-python, then edgeprune report RUN draws them."
)


def write_report(run: Run, path: Path) -> None:
    """Write the report of ``run`` (its keys: :mod:`edgeprune.report.summary`) to ``path``, whole or not at all."""
    write_atomically(Path(path), page(run))


def page(run: Run) -> str:
    """The report as HTML text."""
    run = RunSummary.of(run)
    sentence, verdict = headline(run)
    origin = {name: text for name, text in run.origin.items() if name != "command"}
    return render(
        "report.html",
        title=title(run),
        created=run.created or DASH,
        sentence=sentence,
        verdict=MARKS[verdict],
        budgets=[{"kind": one.kind, "value": one.value, "limit": one.limit, "mark": MARKS[one.verdict]} for one in verdicts(run)],
        accuracy=_accuracy(run),
        interval=_interval(run),
        advice=next_step(run),
        no_charts=None if vega.available() else NO_CHARTS,
        label=label(run),
        rows=_cells(run),
        layers=sections.layers(run),
        cut=sections.cut(run),
        objectives=sections.objectives(run),
        plans=sections.plans(run),
        samples=sections.samples(run),
        tuning=sections.tuning(run),
        device=_facts(run.device),
        heat=sections.heat(run),
        files=files(run),
        command=run.origin.get("command"),
        origin=_facts(origin),
        versions=_facts(run.versions),
        warnings=grouped_warnings(run.warnings),
    )


def summary_table(run: Run) -> str:
    """The outcome and the figures before and after as a piece of HTML without styles, for notebooks."""
    sentence, _ = headline(run)
    return render("summary.html", title=title(run), sentence=sentence, rows=_cells(RunSummary.of(run)))


def _cells(run: RunSummary) -> list[list[str]]:
    return [[row.name, row.dense, row.pruned, row.change] for row in rows(run)]


def _accuracy(run: RunSummary) -> str | None:
    """The metric of both models with its uncertainty, as a sentence."""
    before, after = run.dense, run.pruned
    if after.metric is None:
        return None
    name = run.metric_name or "metric"
    shown = f"{name}: {format_score(after.metric, after.metric_error, run.metric_unit)}"
    if before.metric is not None:
        shown += f", of the dense model {format_score(before.metric, before.metric_error, run.metric_unit)}"
    return f"{shown} (± standard error: {run.metric_error_method})" if run.metric_error_method else shown


def _interval(run: RunSummary) -> str | None:
    if run.ratio is None or run.ratio.low is None:
        return None
    return "In brackets: the 99 % interval of a ratio of latencies measured in turns, and the 95 % interval of a single median."


def _facts(values: dict[str, str | float | None] | dict[str, str]) -> list[tuple[str, str]]:
    return [(name, DASH if value is None else f"{value:g}" if isinstance(value, float) else value) for name, value in values.items()]
