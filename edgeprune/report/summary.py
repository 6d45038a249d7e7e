"""The figures of a run as rows of text, for every way of showing them.

A *run* is a mapping; every key may be missing or ``None`` (shown as a dash), and others are ignored:

``task``, ``target``, ``created``
    names and a time, as text
``measured``
    whether the latencies come from a device; else everything is labelled "predicted, not measured"
``measured_kinds``, ``methods``
    where some figures are measured and others are not: the kinds of budget that are, and by kind where a figure comes from
``metric_name``, ``higher_is_better``
    what ``metric`` is, e.g. ``accuracy``, and whether more of it is better (unless said: yes)
``dense``, ``pruned``
    ``metric``; ``latency_ms`` (median) with the interval ``low_ms``, ``high_ms``; ``peak_bytes``; ``energy_mj`` and ``energy_method``
    (``None``: no meter, modelled); ``file_bytes``; ``macs``; ``parameters``
``ratio``
    pruned latency over dense from interleaved measurement: ``value`` with the interval ``low``, ``high``
``budget``
    by kind (``latency``, ``memory``, ``energy``, ``size``, ``macs``, ``parameters``, ``max_drop``): ``text`` as the user wrote it,
    ``limit`` in the kind's unit (ms, bytes, mJ, the metric's); where the caller has judged it ``verdict`` (``met``, ``missed``,
    ``undecided``) and ``judged``: ``value`` with its interval ``low``, ``high`` and the ``limit`` they were held against, in the kind's
    unit or, where ``relative``, as shares of the dense model's latency; else the pruned model's figure is compared with ``limit``
``device``, ``versions``
    facts by name: device, runtime, threads, clocks and temperature; versions of what was used
``groups``
    the plan: ``name``, ``kept`` and ``total`` channels of each
``candidates``
    models built on the way: ``predicted_ms``, ``measured_ms`` with ``low_ms``, ``high_ms``, and ``ratio`` to dense
``history``
    fine-tuning by epoch: ``epoch``, ``step``, ``loss``, ``learning_rate``, ``score``
``seconds``
    ``total``, and of it ``export``: of the last call that worked on the run
``warnings``
    sentences
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from edgeprune import verdict as rule
from edgeprune.budget import COUNTED, FIGURES, format_metric, format_quantity
from edgeprune.verdict import Interval

DASH = "–"
NOT_MEASURED = "predicted, not measured"
NO_METER = "no meter: modelled"


@dataclass(frozen=True)
class Row:
    """One line of before and after; ``change`` is the relative or absolute difference."""

    name: str
    dense: str
    pruned: str
    change: str


@dataclass(frozen=True)
class Verdict:
    """One budget, what was judged (with its interval), and the verdict."""

    kind: str
    limit: str
    value: str
    verdict: rule.Verdict


def title(run: Mapping[str, Any]) -> str:
    """What was pruned, and for what."""
    device = run.get("target") or (run.get("device") or {}).get("profile") or "an unnamed device"
    return f"{run.get('task') or 'model'} on {device}"


def label(run: Mapping[str, Any]) -> str:
    """``measured``, or that it is not, and where it comes from if that is said."""
    return "measured" if run.get("measured") else (run.get("methods") or {}).get("latency") or NOT_MEASURED


def rows(run: Mapping[str, Any]) -> list[Row]:
    """Before and after, line by line."""
    dense, pruned = run.get("dense") or {}, run.get("pruned") or {}

    def row(name: str, key: str, show: Callable[[Any], str], change: Callable[[float, float], str] = _relative) -> Row:
        before, after = dense.get(key), pruned.get(key)
        changed = DASH if before is None or after is None else change(before, after)
        return Row(name, _or_dash(before, show), _or_dash(after, show), changed)

    latency = row("latency", "latency_ms", lambda value: format_quantity("latency", value))
    interval = [latency.dense + _interval(dense), latency.pruned + _interval(pruned), _ratio(run) or latency.change]
    energy = row("energy an inference", "energy_mj", lambda value: format_quantity("energy", value))
    return [
        row(str(run.get("metric_name") or "metric"), "metric", format_metric, _difference),
        Row(f"latency, median ({label(run)})", *interval),
        row(_named("peak memory", run, "memory"), "peak_bytes", lambda value: format_quantity("memory", value)),
        Row(f"energy an inference ({_energy_method(pruned)})", energy.dense, energy.pruned, energy.change),
        row(_named("file size", run, "size"), "file_bytes", lambda value: format_quantity("size", value)),
        row("multiply-accumulates", "macs", _count),
        row("parameters", "parameters", _count),
    ]


def verdicts(run: Mapping[str, Any]) -> list[Verdict]:
    """Each budget with the figure it limits."""
    found = []
    for kind, limit in (run.get("budget") or {}).items():
        show, bound, judged = _shower(kind, run), limit.get("limit"), limit.get("judged")
        wanted = _or_dash(bound, show)
        text = str(limit.get("text") or wanted)
        if bound is not None and text.replace(" ", "") != wanted.replace(" ", ""):
            text = f"{text} = {wanted}"
        if judged is None:
            value = _figure(kind, run)
            verdict = rule.judge(None if value is None else Interval.exact(value), math.nan if bound is None else bound + _slack(bound))
            found.append(Verdict(kind.replace("_", " "), text, _or_dash(value, show), limit.get("verdict") or verdict))
            continue
        if judged["relative"]:
            show = _percent
        interval = "" if judged["low"] == judged["high"] else f" [{show(judged['low'])}, {show(judged['high'])}]"
        found.append(Verdict(kind.replace("_", " "), text, show(judged["value"]) + interval, rule.Verdict(limit["verdict"])))
    return found


def _figure(kind: str, run: Mapping[str, Any]) -> float | None:
    """The pruned model's figure that a budget limits; of ``max_drop`` what the metric lost."""
    dense, pruned = run.get("dense") or {}, run.get("pruned") or {}
    if kind != "max_drop":
        found: float | None = pruned.get(FIGURES[kind])
        return found
    if dense.get("metric") is None or pruned.get("metric") is None:
        return None
    return float(dense["metric"] - pruned["metric"]) * (1 if run.get("higher_is_better", True) else -1)


def headline(run: Mapping[str, Any]) -> tuple[str, rule.Verdict]:
    """The outcome in one sentence, and the verdict on all budgets."""
    found = verdicts(run)
    missed = [one.kind for one in found if one.verdict == rule.Verdict.MISSED]
    unknown = [one.kind for one in found if one.verdict == rule.Verdict.UNDECIDED]
    how = _how(run, [one.kind for one in found])
    if missed:
        return f"Budget missed, {how}: {', '.join(missed)}", rule.Verdict.MISSED
    if unknown:
        nothing = all(one.value == DASH for one in found if one.verdict == rule.Verdict.UNDECIDED)
        return f"{'Not judged' if nothing else 'Undecided'}: {', '.join(unknown)}", rule.Verdict.UNDECIDED
    return (f"Every budget is met, {how}", rule.Verdict.MET) if found else ("No budget was set", rule.Verdict.UNDECIDED)


def _how(run: Mapping[str, Any], kinds: Sequence[str]) -> str:
    """Where the figures of these kinds of budget come from: the kinds are named where there are several answers."""
    measured = [kind.replace("_", " ") for kind in run.get("measured_kinds") or ()]
    by_source: dict[str, list[str]] = {}
    for kind in kinds:
        if kind in COUNTED:
            source = "as counted"
        elif not run.get("measured") and kind not in measured:
            source = "as predicted, not measured"
        elif kind == "energy" and _energy_method(run.get("pruned") or {}).startswith("no meter"):
            source = "as modelled"
        else:
            source = "as measured"
        by_source.setdefault(source, []).append(kind)
    plain = "as measured" if "as measured" in by_source else next(iter(by_source), "as measured")
    others = [f"{' and '.join(named)} {source}" for source, named in by_source.items() if source != plain]
    return "; ".join([plain, *others])


def _named(name: str, run: Mapping[str, Any], kind: str) -> str:
    """A figure's name with where it comes from, if that is said."""
    method = (run.get("methods") or {}).get(kind)
    return f"{name} ({method})" if method else name


def _or_dash(value: Any, show: Callable[[Any], str]) -> str:
    return DASH if value is None else show(value)


def _shower(kind: str, run: Mapping[str, Any]) -> Callable[[float], str]:
    if kind == "max_drop":
        return partial(format_metric, size=(run.get("dense") or {}).get("metric"))
    return lambda value: format_quantity(kind, value)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _slack(bound: float) -> float:
    """Metrics are sums of float32."""
    return 1e-5 * max(1.0, abs(bound))


def _difference(before: float, after: float) -> str:
    return format_metric(after - before, before, "+")


def _relative(before: float, after: float) -> str:
    return f"{100 * after / before:.1f} %" if before else DASH


def _interval(model: Mapping[str, Any]) -> str:
    low, high = model.get("low_ms"), model.get("high_ms")
    if low is None or high is None:
        return ""
    return f" [{format_quantity('latency', low)}, {format_quantity('latency', high)}]"


def _ratio(run: Mapping[str, Any]) -> str | None:
    ratio = run.get("ratio") or {}
    if ratio.get("value") is None:
        return None
    known = ratio.get("low") is not None and ratio.get("high") is not None
    interval = f" [{100 * ratio['low']:.1f}, {100 * ratio['high']:.1f}]" if known else ""
    return f"{100 * ratio['value']:.1f} %{interval}"


def _energy_method(model: Mapping[str, Any]) -> str:
    return str(model.get("energy_method") or NO_METER)


def _count(value: float) -> str:
    for suffix, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= factor:
            return f"{value / factor:.3g} {suffix}"
    return f"{value:.0f}"
