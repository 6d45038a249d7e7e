"""Gates: limits that the evidence must meet before there is a release."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from edgeprune.bench import Measurement
from edgeprune.bench.limits import KINDS, parse_gate
from edgeprune.budget import format_quantity
from edgeprune.errors import EvidenceError, GateError, InputError, suggest
from edgeprune.release.bundle.manifest import Gate
from edgeprune.verdict import Interval, Verdict
from edgeprune.verdict import judge as judge_limit

_VALUE = re.compile(r"([0-9]*\.?[0-9]+)(%?)")


@dataclass(frozen=True)
class Wanted:
    """``text``: as the user wrote it. ``variant``: the only one it is for; None for all."""

    variant: str | None
    text: str

    @property
    def kind(self) -> str:
        """What is limited."""
        return self.text.partition(":")[0]


def parse_gates(texts: Sequence[str]) -> tuple[Wanted, ...]:
    """``latency:15ms,accuracy:0.91``, or of one variant: ``pi4=latency:15ms``.

    Kinds are latency, memory, energy and size (upper limits), or the name of a task's metric (a lower limit, an upper one of errors).
    Raises :class:`InputError`.
    """
    wanted = []
    for text in (one.strip() for joined in texts for one in joined.split(",")):
        variant, equals, gate = text.rpartition("=")
        if equals and not variant:
            raise InputError(f"the gate {text!r} names no variant before its =", remedy="Write pi4=latency:15ms, or leave out the =.")
        kind, _, value = gate.partition(":")
        if kind in KINDS:
            parsed = parse_gate(gate)
            if parsed.limit.relative:
                raise InputError(
                    f"the gate {text!r} is a percentage of another model", remedy="Give an absolute limit, such as latency:15ms."
                )
        elif not kind or not _VALUE.fullmatch(value):
            raise InputError(
                f"{text!r} is not a gate", remedy="Write one such as latency:15ms, memory:20MB, accuracy:0.91, pi4=latency:15ms."
            )
        wanted.append(Wanted(variant if equals else None, gate))
    return tuple(wanted)


def judge(
    wanted: Wanted,
    variant: str,
    file_bytes: int,
    measurement: Measurement | None,
    metric_name: str,
    metric: float | None,
    dense_metric: float | None,
    higher_is_better: bool = True,
) -> Gate:
    """The gate as the manifest keeps it, met by the evidence.

    ``file_bytes``, ``metric``: of the exported file. ``dense_metric``: of the original, which shows whether it is a percentage. Raises
    :class:`GateError` when it is not met or cannot be decided, :class:`EvidenceError` when there is nothing to judge it by.
    """
    where = f"variant {variant}: the gate {wanted.text}"
    if wanted.kind in KINDS:
        if wanted.kind == "size" and measurement is None:  # known without a device
            limit = parse_gate(wanted.text).limit.value
            if judge_limit(Interval.exact(file_bytes), limit) != Verdict.MET:
                has = format_quantity("size", file_bytes)
                raise GateError(f"{where} is not met: the file has {has}", remedy="Prune for it, or widen the gate.")
            return Gate(wanted.kind, limit)
        if measurement is None:
            raise EvidenceError(f"{where} has no measurement to be judged by: the run was for a profile", remedy="Prune with --target.")
        if wanted.kind == "latency" and not math.isfinite(measurement.latency_ms):
            raise EvidenceError(f"{where} is for a latency that was not measured on {measurement.device}", remedy="Leave this gate out.")
        gate = parse_gate(wanted.text)
        judged = gate.judge(measurement)
        if judged.verdict != Verdict.MET:
            missed = "is not met" if judged.verdict == Verdict.MISSED else "cannot be decided"
            remedy = "Prune for it, measure again, or widen the gate."
            raise GateError(f"{where} {missed}: {judged.message}", remedy=remedy, verdict=judged.verdict)
        return Gate(wanted.kind, gate.limit.value)
    if wanted.kind != metric_name:
        remedy = suggest(wanted.kind, (*KINDS, metric_name), "kinds of gate")
        raise EvidenceError(f"{where} is for {wanted.kind}, and the task's metric is {metric_name}", remedy=remedy)
    if metric is None:
        raise EvidenceError(f"{where} has no {metric_name} of the exported file to be judged by", remedy="Give its recipe: --recipe FILE.")
    limit = _metric_limit(wanted.text, metric_name, max(metric, dense_metric or 0.0))
    if judge_limit(Interval.exact(metric), limit, at_least=higher_is_better) != Verdict.MET:
        bound = "at least" if higher_is_better else "at most"
        raise GateError(f"{where} is not met: {metric_name} {metric:.6g}, {bound} {limit:.6g}", remedy="Prune less, or widen the gate.")
    return Gate(wanted.kind, limit, not higher_is_better)


def _metric_limit(text: str, metric_name: str, largest: float) -> float:
    """The limit in the metric's own unit. An accuracy may be a fraction or in percent; ``largest`` known one above 1 means the latter, and
    then 0.91 and 91% are the same. Of other metrics a plain number is meant as it is."""
    match = _VALUE.fullmatch(text.partition(":")[2])
    assert match is not None
    value, percent = float(match[1]), match[2] == "%"
    in_percent = largest > 1.0
    if percent:
        return value if in_percent else value / 100
    return value * 100 if metric_name == "accuracy" and in_percent and value <= 1 else value


def describe(gate: Gate) -> str:
    """As a person reads it."""
    if gate.kind in KINDS:
        return f"{gate.kind} at most {format_quantity(gate.kind, gate.limit)}"
    return f"{gate.kind} {'at most' if gate.at_most else 'at least'} {gate.limit:g}"
