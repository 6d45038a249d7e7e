"""What happens in a run, as values: appended to ``events.jsonl``, shown by the console, written to the log, passed to who embeds a run."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from edgeprune.budget import FIGURES, format_quantity
from edgeprune.decode import JsonObject, convert
from edgeprune.files import parse_json
from edgeprune.verdict import Verdict

EVENTS = "events.jsonl"

PLANS, ROUNDS = "measuring plans", "round"
"""Stages of :class:`Progress`: the plans of a search, and the rounds of one plan's measurement."""

Phase = Literal["analysing", "connecting", "measuring", "scoring", "comparing", "reconstructing", "fine-tuning", "exporting"]
"""What a run is doing."""


@dataclass(frozen=True)
class Event:
    """Something that happened.  ``text``: a line for a person, or None where there is nothing to read."""

    @property
    def text(self) -> str | None:
        """In words."""
        return None

    def to_json(self) -> JsonObject:
        """Plain values, with the class's name as ``event``."""
        return {"event": type(self).__name__} | asdict(self)


@dataclass(frozen=True)
class Noted(Event):
    """A message for the user."""

    message: str

    @property
    def text(self) -> str:
        """The message."""
        return self.message


@dataclass(frozen=True)
class Warned(Noted):
    """A message that the user should act on."""

    @property
    def text(self) -> str:
        """The message, as a warning."""
        return f"warning: {self.message}"


@dataclass(frozen=True)
class RunStarted(Event):
    """A run starts, or continues after an interruption (``resumed``), in directory ``run``."""

    run: str
    task: str
    target: str | None
    profile: str | None
    resumed: bool


@dataclass(frozen=True)
class RunEnded(Event):
    """``state``: as in ``run.json``. ``error``: what ended it, if something did. ``seconds``: it took."""

    state: str
    seconds: float
    error: str | None = None


@dataclass(frozen=True)
class PhaseStarted(Event):
    """``subject``: what of."""

    phase: Phase
    subject: str

    @property
    def text(self) -> str:
        """The phase and its subject."""
        return f"{self.phase} {self.subject}"


@dataclass(frozen=True)
class Progress(Event):
    """``done`` of ``total`` in ``stage``.  ``loss``: of the training so far, in stages that train. ``detail``: what is known so far."""

    stage: str
    done: int
    total: int
    loss: float | None = None
    detail: str | None = None

    @property
    def label(self) -> str:
        """The stage, with its loss or its detail."""
        known = self.detail or (None if self.loss is None else f"loss {self.loss:.3f}")
        return self.stage if known is None else f"{self.stage} ({known})"


@dataclass(frozen=True)
class EpochEnded(Event):
    """``epoch`` of ``epochs`` ended in the training ``stage``, after optimizer ``step``.  ``loss``: its mean. ``learning_rate``: its last.

    ``score``: the task's ``metric`` after it; None where the task cannot score.
    """

    stage: str
    epoch: int
    epochs: int
    step: int
    loss: float | None
    learning_rate: float | None
    score: float | None
    metric: str

    @property
    def text(self) -> str:
        """The epoch, its loss and its score."""
        loss = "" if self.loss is None else f", loss {self.loss:.3f}"
        score = "" if self.score is None else f", {self.metric} {self.score:.4g}"
        return f"{self.stage}: epoch {self.epoch} of {self.epochs}{loss}{score}"


@dataclass(frozen=True)
class ObjectiveChosen(Event):
    """Plans of several objectives were cut and reconstructed; the one nearest to the dense model's answers is ``name``'s.

    ``divergences``: of the answers from the dense model's, by objective.
    """

    name: str
    divergences: dict[str, float]

    @property
    def text(self) -> str:
        """The objective that is followed, and what its plan and the others' cost."""
        others = ", ".join(f"{name} {value:.3g}" for name, value in self.divergences.items() if name != self.name)
        beside = f" ({others})" if others else ""
        return f"objective {self.name}: its plan diverges least from the dense model, by {self.divergences[self.name]:.3g}{beside}"


@dataclass(frozen=True)
class PlanMeasured(Event):
    """Plan ``number`` was measured; 0 is the narrowest, by which a budget was predicted to be out of reach.

    ``predicted``, ``measured``: by kind of limit, in its base unit. ``utilization``: of the budget. ``board``: which of several devices
    measured it.
    """

    number: int
    predicted: dict[str, float]
    measured: dict[str, float]
    utilization: float
    board: str | None = None

    @property
    def text(self) -> str:
        """The figures, measured and predicted."""
        found = [
            f"{kind} {format_quantity(kind, value)} (predicted {format_quantity(kind, self.predicted[kind])})"
            for kind, value in self.measured.items()
            if kind in FIGURES and kind in self.predicted
        ]
        name = f"plan {self.number}" if self.number else "the narrowest plan"
        where = f" on {self.board}" if self.board else ""
        return f"{name}{where}: {', '.join(found)}, uses {100 * self.utilization:.1f} % of the budget"


@dataclass(frozen=True)
class PlanReused(Event):
    """An earlier run measured the plan that is wanted: ``ratio`` of its latency to the dense model's, with its interval."""

    ratio: float
    low: float
    high: float

    @property
    def text(self) -> str:
        """That it is not measured again."""
        return f"an earlier run measured this plan: {_share(self.ratio, self.low, self.high)}"


@dataclass(frozen=True)
class SessionEnded(Event):
    """The final model was measured in turns with the dense one for the ``number``-th time, of at most ``most``.

    ``ratio``: of their latencies in all sessions so far, with its interval. ``verdict``: on the latency budget; None without one, and where
    latencies are predicted.
    """

    number: int
    most: int
    ratio: float
    low: float
    high: float
    verdict: Verdict | None

    @property
    def text(self) -> str:
        """The ratio and the verdict."""
        verdict = "" if self.verdict is None else f", latency budget {self.verdict}"
        return f"final session {self.number} of at most {self.most}: {_share(self.ratio, self.low, self.high)}{verdict}"


@dataclass(frozen=True)
class BudgetJudged(Event):
    """The verdict on one limit.  ``limit``: as it was given. ``value``: what was judged, in the kind's base unit, or of a relative latency
    the share of the dense model's; with its interval. None where it is not known."""

    kind: str
    limit: str | None
    value: float | None
    low: float | None
    high: float | None
    verdict: Verdict | None

    @property
    def text(self) -> str:
        """The limit and the verdict."""
        return f"{self.kind} at most {self.limit}: {self.verdict or 'not judged'}"


@dataclass(frozen=True)
class DeviceCooling(Event):
    """The device is throttled, by ``causes``, and rests until it has recovered."""

    target: str
    causes: list[str]

    @property
    def text(self) -> str:
        """Why it rests."""
        return f"{self.target} is throttled ({', '.join(self.causes)}): waiting until it has recovered"


@dataclass(frozen=True)
class DeviceWaiting(Event):
    """The device is in use by ``holder``."""

    target: str
    holder: str

    @property
    def text(self) -> str:
        """Who holds it."""
        return f"{self.target} is in use by {self.holder}: waiting"


@dataclass(frozen=True)
class Unknown(Event):
    """An event of another version: its name and its fields."""

    event: str
    values: JsonObject


_NOTES, _RUN = (Noted, Warned), (RunStarted, RunEnded, PhaseStarted, Progress, EpochEnded)
_MEASURED = (ObjectiveChosen, PlanMeasured, PlanReused, SessionEnded, BudgetJudged, DeviceWaiting, DeviceCooling)
KINDS: dict[str, type[Event]] = {kind.__name__: kind for kind in (*_NOTES, *_RUN, *_MEASURED)}


def _share(ratio: float, low: float, high: float) -> str:
    return f"{100 * ratio:.1f} % of the dense model's latency ({100 * low:.1f} to {100 * high:.1f} %)"


class EventFile:
    """Appends events to a run's ``events.jsonl``, one JSON object a line; of progress only what a person would see (every tenth)."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / EVENTS
        self._shown: dict[str, int] = {}

    def __call__(self, event: Event) -> None:
        """Append one.  The events serve who watches: a full disk ends the run where it keeps its results, not here."""
        if isinstance(event, Progress) and not self._advanced(event):
            return
        line = json.dumps({"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())} | event.to_json())
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError:
            return

    def _advanced(self, event: Progress) -> bool:
        tenth = 10 * event.done // max(event.total, 1)
        advanced = self._shown.get(event.stage) != tenth
        self._shown[event.stage] = tenth
        return advanced


def read_events(folder: Path) -> Iterator[tuple[str, Event]]:
    """Time (UTC) and event, in order.  A damaged line costs only itself; fields that a newer version added are left out, and events that
    this version does not know are :class:`Unknown`."""
    try:
        lines = (folder / EVENTS).read_text(errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        try:
            yield _event(convert(parse_json(line), JsonObject, finite=False))
        except ValueError:
            continue


@dataclass(frozen=True)
class _Stamp:
    at: str
    event: str


def _event(entry: JsonObject) -> tuple[str, Event]:
    """Time and event of one line.  Raises :class:`ValueError`."""
    stamp = convert(entry, _Stamp, finite=False)
    with contextlib.suppress(ValueError):  # of a version that has other phases or verdicts, for example
        if kind := KINDS.get(stamp.event):
            return stamp.at, convert(entry, kind, finite=False)
    return stamp.at, Unknown(stamp.event, {name: value for name, value in entry.items() if name not in ("at", "event")})
