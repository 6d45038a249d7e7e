"""Conditions under which a result is not good enough: ``slower:5%``, ``latency:15ms``, ``memory:20MB``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edgeprune.bench.advice import NO_ENERGY
from edgeprune.bench.compare import Change, baseline_for, between_sessions, decisive_ms, distrust, spread_of
from edgeprune.bench.history import History
from edgeprune.bench.results import Measurement, Ratio
from edgeprune.bench.run import Report
from edgeprune.budget import Limit, format_quantity, parse_limit
from edgeprune.decode import JsonObject
from edgeprune.errors import BudgetError, InputError, close_names
from edgeprune.verdict import Interval, Verdict, judge

KINDS = ("slower", "latency", "memory", "energy", "size")
State = Literal["passed", "failed", "inconclusive"]

_STATES: dict[Verdict, State] = {Verdict.MET: "passed", Verdict.MISSED: "failed", Verdict.UNDECIDED: "inconclusive"}


@dataclass(frozen=True)
class Gate:
    """``text``: as the user wrote it.  A relative ``limit`` is a share of the baseline's value."""

    text: str
    limit: Limit

    @property
    def needs_baseline(self) -> bool:
        """Whether there must be a result to compare with."""
        return self.limit.relative

    def judge(self, item: Measurement, baseline: Measurement | None = None, ratio: Ratio | None = None) -> Judgement:
        """Judge a measurement.  A value whose interval lies on both sides of the limit is ``inconclusive``, and so is one that is missing
        or must not be trusted (:func:`~edgeprune.bench.compare.distrust`).

        ``baseline`` and its latency's ``ratio`` must be given to a gate that needs them.
        """
        kind, limit = self.limit.kind, self.limit.value
        if kind == "latency" and self.limit.relative:
            assert ratio is not None
            interval = Interval(ratio.ratio, ratio.low, ratio.high)
            verdict = judge(interval, limit)
            text = f"{ratio.ratio:.3f} of the baseline's latency ({ratio.low:.3f} to {ratio.high:.3f})"
            doubts = [distrust(one) for one in (item, baseline) if one] if verdict == Verdict.UNDECIDED else []
            return Judgement(self, verdict, "; ".join(filter(None, [text, *doubts])), interval, limit)
        found = _interval(kind, item)
        if found is None:
            return Judgement(
                self, Verdict.UNDECIDED, f"{NO_ENERGY}{item.energy_error or 'there is no meter, or it was not requested'}", None, limit
            )
        if self.limit.relative:
            assert baseline is not None
            base = _interval(kind, baseline)
            if base is None:
                return Judgement(self, Verdict.UNDECIDED, "the baseline has no value for it", found, limit)
            limit = self.limit.resolve(base.value)
        bounds = "" if found.low == found.high else f" ({format_quantity(kind, found.low)} to {format_quantity(kind, found.high)})"
        text = f"{kind} {format_quantity(kind, found.value)}{bounds}, limit {format_quantity(kind, limit)}"
        why = distrust(item) if kind == "latency" else None
        return Judgement(self, judge(None if why else found, limit), f"{text}; {why}" if why else text, found, limit)


@dataclass(frozen=True)
class Judgement:
    """What a gate said of a measurement, and why: ``found`` was compared with ``limit``, both in the kind's base unit, or of a relative
    latency both as shares of the baseline's."""

    gate: Gate
    verdict: Verdict
    message: str
    found: Interval | None
    limit: float

    @property
    def state(self) -> State:
        """The verdict in the words of a test report."""
        return _STATES[self.verdict]


@dataclass(frozen=True)
class Judged:
    """One thread count's measurement, its change from an earlier result where there was one, and what each gate says."""

    measurement: Measurement
    change: Change | None
    judgements: tuple[Judgement, ...]

    def to_json(self) -> JsonObject:
        """As plain JSON values, without the measurement's samples again."""
        said = [{"gate": item.gate.text, "state": item.state, "message": item.message} for item in self.judgements]
        change: JsonObject | None = None
        if self.change:
            earlier = {name: value for name, value in self.change.a.to_json().items() if name != "samples_ns"}
            change = {name: value for name, value in self.change.to_json().items() if name != "b"} | {"a": earlier}
        return {"threads": self.measurement.threads, "gates": said, "change": change}


def judge_report(
    report: Report, model: str, gates: Sequence[Gate], baseline: str | None, history: History | None, force: bool = False
) -> list[Judged]:
    """Judge all that was measured: by the baseline measured in turns with it, or else by the earlier result that ``baseline`` names.

    ``model`` is the model's file name.  Raises :class:`InputError` when there is no such result,
    :class:`~edgeprune.errors.IncomparableError` unless ``force``, and :class:`~edgeprune.errors.HistoryError`.
    """
    found = []
    for comparison in report.comparisons:
        base, item = comparison.measurements
        found.append(Judged(item, None, tuple(gate.judge(item, base, comparison.ratios[0]) for gate in gates)))
    for item in report.measurements:
        if baseline is None:
            found.append(Judged(item, None, tuple(gate.judge(item) for gate in gates)))
        else:
            change = between_sessions(baseline_for(item, model, baseline, history), item, force, spread_of(item, history))
            found.append(Judged(item, change, tuple(gate.judge(item, change.a, change.ratio) for gate in gates)))
    return found


def parse_gate(text: str) -> Gate:
    """``slower:5%`` (than the baseline), or an upper limit: ``latency:15ms``, ``memory:20MB``, ``energy:40mJ``, ``size:1MB``.

    A limit such as ``memory:110%`` is a share of the baseline's value.  Raises :class:`InputError`.
    """
    kind, _, value = text.partition(":")
    if kind not in KINDS or not value:
        near = f"Did you mean {' or '.join(close_names(kind, KINDS))}? " if close_names(kind, KINDS) and kind not in KINDS else ""
        raise InputError(
            f"{text!r} is not a condition", remedy=f"{near}Write one such as slower:5%, latency:15ms, memory:20MB, energy:40mJ, size:1MB."
        )
    if kind != "slower":
        return Gate(text, parse_limit(kind, value))
    limit = parse_limit("latency", value)
    if not limit.relative:
        raise BudgetError(f"{text!r} is not a percentage", remedy="Write slower:5%, or latency:15ms for an absolute limit.")
    return Gate(text, Limit("latency", 1 + limit.value, relative=True))


def _interval(kind: str, item: Measurement) -> Interval | None:
    """A value with its interval, in the kind's base unit; None where it was not measured."""
    match kind:
        case "latency":
            return Interval(item.latency_ms, *decisive_ms(item))
        case "energy":
            if item.energy_mj is None:
                return None
            low, high = item.energy_low_mj, item.energy_high_mj
            return Interval(item.energy_mj, item.energy_mj if low is None else low, item.energy_mj if high is None else high)
        case "memory":
            return Interval.exact(item.peak_bytes)
        case _:
            return Interval.exact(item.file_bytes)


def _unmeasured(item: Measurement) -> str:
    return NO_ENERGY + (item.energy_error or "there is no meter, or energy was not requested")
