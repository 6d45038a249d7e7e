"""The report of a run: one HTML file with everything in it, no script and no outside asset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from edgeprune.budget import counted
from edgeprune.files import write_atomically
from edgeprune.report import charts
from edgeprune.report.summary import DASH, Run, headline, label, next_step, rows, title, verdicts
from edgeprune.runs.summary import CandidateSummary, RunSummary
from edgeprune.verdict import Verdict

STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1c2024; --soft: #60646c; --line: #e2e4e8; --track: #dfe3ea; --main: #2563c9;
  --good: #18794e; --bad: #c62a2f; --warn: #ad5700; }
@media (prefers-color-scheme: dark) {
  :root { --back: #15171a; --text: #e8eaed; --soft: #a0a6ae; --line: #2c3036; --track: #343a43; --main: #6ea8fe;
    --good: #4cc38a; --bad: #ff6369; --warn: #f1a10d; }
}
body { background: var(--back); color: var(--text); font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0; }
h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }
p { margin: .4rem 0; }
.soft, .badge { color: var(--soft); }
.badge { font-size: .8rem; font-weight: 400; border: 1px solid var(--line); border-radius: 1rem; padding: .1rem .6rem; }
.verdict { font-size: 1.1rem; font-weight: 600; margin: .8rem 0; }
.good { color: var(--good); }
.bad { color: var(--bad); }
.warn { color: var(--warn); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
thead th { color: var(--soft); font-weight: 500; }
tbody th { font-weight: 400; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 1rem; }
svg { width: 100%; height: auto; max-width: 40rem; }
svg text { fill: var(--text); font: 11px system-ui, sans-serif; }
svg .number, svg .axis { fill: var(--soft); }
svg .limit-name { fill: var(--bad); }
.grid { stroke: var(--line); }
.track { fill: var(--track); }
.bar, .dot { fill: var(--main); }
.ring { fill: none; stroke: var(--soft); stroke-width: 1.5; }
.line { fill: none; stroke: var(--main); stroke-width: 2; }
.interval { stroke: var(--main); stroke-width: 2; }
.limit { stroke: var(--bad); stroke-dasharray: 5 4; }
"""
MARKS = {Verdict.MET: ("good", "✓ met"), Verdict.MISSED: ("bad", "✗ missed"), Verdict.UNDECIDED: ("warn", "undecided")}


def write_report(run: Run, path: Path) -> None:
    """Write the report of ``run`` (its keys: :mod:`edgeprune.report.summary`) to ``path``, whole or not at all."""
    write_atomically(Path(path), page(run))


def page(run: Run) -> str:
    """The report as HTML text."""
    run = RunSummary.of(run)
    name = title(run)
    sentence, verdict = headline(run)
    sections = [
        f'<h1>{escape(name)}</h1><p class="soft">edgeprune, {escape(run.created or DASH)}</p>',
        f'<p class="verdict {MARKS[verdict][0]}">{escape(sentence)}</p>',
        f"<p>{escape(advice)}</p>" if (advice := next_step(run)) else "",
        _warnings(run),
        _section("Before and after", _table(["", "dense", "pruned", "pruned / dense"], [_cells(row) for row in rows(run)]), label(run)),
        _budgets(run),
        _objectives(run),
        _candidates(run),
        _plan(run),
        _tuning(run),
        _facts("Device and conditions", run.device),
        _facts("Versions", run.versions),
    ]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(name)}</title>'
    body = "\n".join(filter(None, sections))
    return f'<!doctype html>\n<html lang="en"><head>{head}<style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n'


def summary_table(run: Run) -> str:
    """The outcome and the figures before and after as a piece of HTML without styles, for notebooks."""
    sentence, _ = headline(run)
    table = _table(["", "dense", "pruned", "pruned / dense"], [_cells(row) for row in rows(run)])
    return f"<p><b>{escape(title(run))}</b>: {escape(sentence)}</p>{table}"


def _cells(row: Any) -> list[str]:
    return [escape(text) for text in (row.name, row.dense, row.pruned, row.change)]


def _section(title: str, content: str, badge: str | None = None) -> str:
    mark = f' <span class="badge">{escape(badge)}</span>' if badge else ""
    return f"<section><h2>{escape(title)}{mark}</h2>{content}</section>"


def _table(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table; the cells of ``body`` are HTML already."""
    top = "".join(f"<th>{escape(name)}</th>" for name in header)
    lines = "".join(f"<tr><th>{cells[0]}</th>" + "".join(f"<td>{cell}</td>" for cell in cells[1:]) + "</tr>" for cells in body)
    head = f"<thead><tr>{top}</tr></thead>" if any(header) else ""
    return f'<div class="wide"><table>{head}<tbody>{lines}</tbody></table></div>'


def _warnings(run: RunSummary) -> str:
    return "".join(f'<p class="warn">Warning: {escape(warning)}</p>' for warning in run.warnings)


def _budgets(run: RunSummary) -> str:
    body = []
    for one in verdicts(run):
        style, text = MARKS[one.verdict]
        body.append([escape(one.kind), escape(one.limit), escape(one.value), f'<span class="{style}">{text}</span>'])
    return _section("Budgets", _table(["", "at most", "pruned", ""], body), label(run)) if body else ""


def _objectives(run: RunSummary) -> str:
    """Which plans were compared before the search measured any, and which one won."""
    if not run.objectives:
        return ""
    staged, trained = len({one.stage for one in run.objectives}) > 1, any(one.raced is not None for one in run.objectives)
    body = []
    for one in run.objectives:
        name = f"{one.name}, stage {one.stage + 1}" if staged else one.name
        chosen = '<span class="good">kept</span>' if one.chosen else ""
        raced = DASH if one.raced is None else f"{one.raced:.3g}"
        body.append([escape(name), f"{one.divergence:.3g}", *([raced] if trained else []), f"{one.latency_ms:.4g}", chosen])
    said = (
        "Each objective's plan was cut and its weights reconstructed, without training. The one whose answers diverge least from the dense "
        "model's, on training data that nothing else had used, was kept."
    )
    legend = f'<p class="soft">{said}</p>'
    header = ["objective", "divergence", *(["after a short training"] if trained else []), "predicted, ms", ""]
    return _section("Choice among plans", legend + _table(header, body))


def _candidates(run: RunSummary) -> str:
    found = run.candidates
    if not found:
        return ""
    limit = run.budget["latency"].limit if "latency" in run.budget else None
    header = ["candidate", "predicted, ms", "measured, ms", "interval, ms", "prediction off by", "of dense"]
    body = [[str(number), *_candidate(one)] for number, one in enumerate(found, 1)]
    if any(one.board for one in found):
        header.append("measured by")
        body = [[*row, escape(one.board or DASH)] for row, one in zip(body, found, strict=True)]
    legend = '<p class="soft">Rings: predicted. Dots: measured, with their interval.</p>'
    return _section("Candidates: predicted against measured", charts.candidates(found, limit) + legend + _table(header, body))


def _candidate(one: CandidateSummary) -> list[str]:
    predicted, measured, low, high, ratio = one.predicted_ms, one.measured_ms, one.low_ms, one.high_ms, one.ratio
    return [
        DASH if predicted is None else f"{predicted:.4g}",
        "not measured" if measured is None else f"{measured:.4g}",
        DASH if low is None or high is None else f"{low:.4g} – {high:.4g}",
        DASH if predicted is None or not measured else f"{100 * (predicted / measured - 1):+.1f} %",
        DASH if ratio is None else f"{100 * ratio:.1f} %",
    ]


def _plan(run: RunSummary) -> str:
    groups = run.groups
    if not groups:
        return ""
    kept, total = sum(group.kept for group in groups), sum(group.total for group in groups)
    return _section(
        "Plan: channels kept", charts.kept_widths(groups), f"{kept} of {counted(total, 'channel')} in {counted(len(groups), 'group')}"
    )


def _tuning(run: RunSummary) -> str:
    drawn = []
    for name, values in (
        (run.metric_name or "metric", [(entry.epoch, entry.score) for entry in run.history]),
        ("loss", [(entry.epoch, entry.loss) for entry in run.history]),
    ):
        points = [(epoch, value) for epoch, value in values if value is not None]
        if len(points) > 1:
            drawn.append(charts.curve(points, "epoch", name))
    return _section("Fine-tuning", f'<div class="charts">{"".join(drawn)}</div>') if drawn else ""


def _facts(title: str, facts: Mapping[str, Any] | None) -> str:
    if not facts:
        return ""
    shown = {str(name): DASH if value is None else str(value) for name, value in facts.items()}
    return _section(title, _table(["", ""], [[escape(name), escape(value)] for name, value in shown.items()]))
