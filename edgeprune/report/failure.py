"""The page of a run that ended without a result: what ended it, what to do, and what was found until then."""

from __future__ import annotations

from pathlib import Path

from edgeprune.budget import FIGURES, format_quantity
from edgeprune.decode import JsonObject
from edgeprune.files import write_atomically
from edgeprune.report.summary import DASH
from edgeprune.report.templates import render
from edgeprune.runs.document import RunDocument, read_document
from edgeprune.runs.events import Event, PlanMeasured, Progress, RunEnded, read_events

SENTENCES = {
    "infeasible": "The budget cannot be reached",
    "failed": "The run failed",
    "interrupted": "The run was interrupted",
    "running": "The run has not ended",
}
REMEDIES = {
    "interrupted": "Nothing is lost: continue it.",
    "running": "Wait for it, or continue it if nothing works on it any more.",
}


def write_failure(folder: Path, again: str | None = None) -> None:
    """Write ``report.html`` of the run in ``folder``, which has no result; ``again``: the command that continues it, where that may
    succeed.  Raises :class:`RunError` when its ``run.json`` is damaged, :class:`OSError` when nothing can be written."""
    write_atomically(folder / "report.html", failure_page(folder, again))


def failure_page(folder: Path, again: str | None = None) -> str:
    """The same as HTML text."""
    document = read_document(folder) or RunDocument()
    state, inputs = document.get("state", "running"), document.get("inputs") or {}
    events = list(read_events(folder))
    message, _, remedy = (document.get("error") or "").partition("\n")
    where = inputs.get("target") or inputs.get("profile") or "an unnamed device"
    return render(
        "failure.html",
        title=f"{inputs.get('task') or 'model'} on {where}",
        created=document.get("created") or DASH,
        sentence=SENTENCES.get(state, state),
        message=message or "No error was recorded.",
        remedy=remedy or REMEDIES.get(state),
        again=again,
        asked=_asked(inputs),
        plans=_plans([event for _, event in events]),
        happened=_happened(events),
        versions=list((document.get("versions") or {}).items()),
    )


def _asked(inputs: JsonObject) -> list[tuple[str, str]]:
    budget = inputs.get("budget")
    limits = budget if isinstance(budget, dict) else {}
    found = [(kind.replace("_", " "), f"at most {text}") for kind, text in limits.items() if text is not None]
    return found + [(name, str(inputs[name])) for name in ("target", "profile", "recipe") if inputs.get(name)]


def _plans(events: list[Event]) -> list[list[str]]:
    """Each plan that was measured, and each kind of limit."""
    found = []
    for event in events:
        if not isinstance(event, PlanMeasured):
            continue
        name = f"plan {event.number}" if event.number else "the narrowest"
        for kind in FIGURES:
            if kind in event.measured and kind in event.predicted:
                figures = [format_quantity(kind, values[kind]) for values in (event.predicted, event.measured)]
                found.append([name, kind, *figures, f"{100 * event.utilization:.1f} %"])
    return found


def _happened(events: list[tuple[str, Event]]) -> list[tuple[str, str]]:
    """What a person reads of the events, with the times."""
    lines = [(at, event.text) for at, event in events if event.text is not None and not isinstance(event, Progress)]
    lines += [(at, f"ended after {event.seconds:.0f} s") for at, event in events if isinstance(event, RunEnded)]
    return [(at.replace("T", " ").removesuffix("Z"), text) for at, text in lines]
