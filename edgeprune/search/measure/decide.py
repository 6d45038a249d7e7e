"""The final measurement, repeated while it cannot decide the latency budget."""

from __future__ import annotations

from pathlib import Path

from edgeprune.budget import Budget
from edgeprune.decode import JsonObject
from edgeprune.runs.directory import RunDirectory
from edgeprune.runs.events import SessionEnded
from edgeprune.search.events import EventStream
from edgeprune.search.measure.backend import MeasurementBackend
from edgeprune.search.measure.paired import PairedMeasurement
from edgeprune.search.verdicts import judge_pair
from edgeprune.verdict import Verdict

MOST_SESSIONS = 4
"""How often a tuned model is measured at most: if its interval still holds the limit after that, the verdict is undecided.  Of a hundred
models that are exactly at the limit, about two are then judged met or missed by chance."""


def measure_until_decided(
    backend: MeasurementBackend, run: RunDirectory, budget: Budget, key: str, dense: Path, path: Path, events: EventStream
) -> PairedMeasurement | None:
    """Measure both models in turns, again while the interval holds the latency limit, and join the rounds.  None if nothing is measured."""
    pair = backend.measure_pair(key, dense, path)
    limit = budget.limits().get("latency")
    number = 1
    while pair is not None:
        verdict = judge_pair(limit, pair).verdict if limit is not None and pair.measures("latency") else None
        events.emit(SessionEnded(number, MOST_SESSIONS, pair.ratio, pair.low, pair.high, verdict))
        if verdict != Verdict.UNDECIDED or not pair.log_ratios or number == MOST_SESSIONS:
            break
        number += 1
        events.note(f"the latency limit lies inside the measured interval: measuring again ({number} of at most {MOST_SESSIONS})")
        more = backend.measure_pair(f"{key}-{number}", dense, path)
        pair = pair if more is None else pair.together(more)
    if pair is not None and number > 1 and run.recall(_together(key)) is None:
        run.record(_together(key), pair.to_json())
    return pair


def final_keys(key: str) -> tuple[str, str]:
    """The records that :func:`recall_final` looks at."""
    return _together(key), key


def recall_final(run: RunDirectory, key: str) -> JsonObject | None:
    """The record of what :func:`measure_until_decided` returned."""
    return next(filter(None, map(run.recall, final_keys(key))), None)


def _together(key: str) -> str:
    return f"{key}-together"
