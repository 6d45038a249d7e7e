"""The figures of a run as rows of text, for every way of showing them.

Functions take a :class:`~edgeprune.runs.summary.RunSummary`, or what its ``to_json`` gave; what is not known is shown as a dash.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from edgeprune import verdict as rule
from edgeprune.budget import COUNTED, format_metric, format_quantity, format_score
from edgeprune.runs.summary import BudgetSummary, JudgedSummary, ModelSummary, RunSummary
from edgeprune.verdict import Interval

Run = RunSummary | Mapping[str, Any]
"""A run's summary, or the same in JSON's types."""

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


@dataclass(frozen=True)
class Warnings:
    """A kind of warning, as the first of it says it, and the models that it is about."""

    text: str
    models: str


def grouped_warnings(warnings: Sequence[str]) -> list[Warnings]:
    """Each kind of warning once; numbers and what is in parentheses do not make another kind."""
    found: dict[str, tuple[str, list[str]]] = {}
    for warning in warnings:
        model, colon, text = warning.partition(": ")
        if not colon or model not in ("dense", "pruned"):
            model, text = "", warning
        _, models = found.setdefault(re.sub(r"\(.*?\)|[\d.]+", "", text), (text, []))
        if model and model not in models:
            models.append(model)
    return [Warnings(text, ", ".join(models)) for text, models in found.values()]


def title(run: Run) -> str:
    """What was pruned, and for what."""
    run = RunSummary.of(run)
    return f"{run.task or 'model'} on {run.target or run.device.get('profile') or 'an unnamed device'}"


def label(run: Run) -> str:
    """``measured``, or that it is not, and where it comes from if that is said."""
    run = RunSummary.of(run)
    return "measured" if run.measured else (run.methods or {}).get("latency") or NOT_MEASURED


def rows(run: Run) -> list[Row]:
    """Before and after, line by line."""
    run = RunSummary.of(run)

    def row(
        name: str,
        before: float | None,
        after: float | None,
        show: Callable[[float], str],
        change: Callable[[float, float], str] = _relative,
    ) -> Row:
        changed = DASH if before is None or after is None else change(before, after)
        return Row(name, _or_dash(before, show), _or_dash(after, show), changed)

    def figure(name: str, kind: str) -> Row:
        return row(name, dense.of(kind), pruned.of(kind), _count if kind in COUNTED else lambda value: format_quantity(kind, value))

    dense, pruned = run.dense, run.pruned
    latency = figure(f"latency, median ({label(run)})", "latency")
    return [
        _score_row(run),
        Row(latency.name, latency.dense + _interval(dense), latency.pruned + _interval(pruned), _ratio(run) or latency.change),
        figure(_named("peak memory", run, "memory"), "memory"),
        figure(f"energy an inference ({_energy_method(pruned)})", "energy"),
        *_battery_rows(run),
        figure(_named("file size", run, "size"), "size"),
        figure("multiply-accumulates", "macs"),
        figure("parameters", "parameters"),
    ]


def _battery_rows(run: RunSummary) -> list[Row]:
    """What a day's inferences take of the battery, and how long it lasts for nothing but them; none where no battery is known."""
    battery, energies = run.battery, (run.dense.energy_mj, run.pruned.energy_mj)
    if battery is None:
        return []
    how = "modelled energy" if run.pruned.energy_modelled else "measured energy"
    shares = [None if energy is None else battery.share_of_a_day(energy) for energy in energies]
    taken = [_or_dash(share, lambda value: f"{100 * value:.3g} %") for share in shares]
    days = [_or_dash(share, lambda value: f"{1 / value:.3g} days" if value else DASH) for share in shares]
    change = DASH if shares[0] is None or shares[1] is None else _relative(shares[0], shares[1])
    longer = DASH if not shares[0] or not shares[1] else _relative(1 / shares[0], 1 / shares[1])
    full = f"{battery.capacity_mwh:,.6g} mWh, {battery.source}"
    return [
        Row(f"battery that {battery.inferences_per_day:,.6g} inferences take a day ({how})", taken[0], taken[1], change),
        Row(f"battery life on these alone ({full})", days[0], days[1], longer),
    ]


def _score_row(run: RunSummary) -> Row:
    """The metric of both models with its standard errors."""
    dense, pruned = run.dense, run.pruned

    def shown(model: ModelSummary) -> str:
        return DASH if model.metric is None else format_score(model.metric, model.metric_error, run.metric_unit)

    change = DASH if dense.metric is None or pruned.metric is None else _difference(dense.metric, pruned.metric)
    return Row(_score_name(run), shown(dense), shown(pruned), change)


def _score_name(run: RunSummary) -> str:
    name = run.metric_name or "metric"
    kind = (run.metric_error_method or "").partition(",")[0]
    return f"{name} ± standard error ({kind})" if kind else name


def verdicts(run: Run) -> list[Verdict]:
    """Each budget with the figure it limits."""
    run = RunSummary.of(run)
    return [_verdict(kind.replace("_", " "), kind, limit, run) for kind, limit in run.budget.items()]


def _verdict(name: str, kind: str, limit: BudgetSummary, run: RunSummary) -> Verdict:
    show, bound, judged = _shower(kind, run), limit.limit, limit.judged
    wanted = _or_dash(bound, show)
    text = limit.text or wanted
    if bound is not None and text.replace(" ", "") != wanted.replace(" ", ""):
        text = f"{text} = {wanted}"
    if judged is None:
        value = _figure(kind, run)
        found = rule.judge(None if value is None else Interval.exact(value), math.nan if bound is None else bound + _slack(bound))
        return Verdict(name, text, _or_dash(value, show), limit.verdict or found)
    if judged.relative:
        show = _percent
    interval = "" if judged.low == judged.high else f" [{show(judged.low)}, {show(judged.high)}]"
    return Verdict(name, text, show(judged.value) + interval, limit.verdict or rule.Verdict.UNDECIDED)


def _figure(kind: str, run: RunSummary) -> float | None:
    """The pruned model's figure that a budget limits; of ``max_drop`` what the metric lost."""
    if kind != "max_drop":
        return run.pruned.of(kind)
    before, after = run.dense.metric, run.pruned.metric
    return None if before is None or after is None else (before - after) * (1 if run.higher_is_better else -1)


def headline(run: Run) -> tuple[str, rule.Verdict]:
    """The outcome in one sentence, and the verdict on all budgets."""
    run = RunSummary.of(run)
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


_UNMEASURED = {
    "energy": "Nothing measured the energy: connect a meter that edgeprune probe finds, or leave that limit out.",
    "latency": "Nothing measured the latency: give a device (--target), or leave that limit out.",
    "max_drop": "The task cannot be scored: give it validation data, or leave that limit out.",
}


def next_step(run: Run) -> str | None:
    """What to do about a run that ended undecided; None where nothing is undecided, or a limit was missed."""
    run = RunSummary.of(run)
    if headline(run)[1] != rule.Verdict.UNDECIDED:
        return None
    unknown = [(kind, limit) for kind, limit in run.budget.items() if limit.verdict in (None, rule.Verdict.UNDECIDED)]
    said = [_next_step(kind, limit.judged) for kind, limit in unknown]
    return " ".join(dict.fromkeys(said)) or None


def _next_step(kind: str, judged: JudgedSummary | None) -> str:
    name = kind.replace("_", " ")
    if judged is None:
        return _UNMEASURED.get(kind, f"The {name} is not known: leave that limit out.")
    measure = "end what else runs on the device and start a new run, which measures again"
    if not judged.limit < judged.high < math.inf:
        return f"The measurement decides nothing about the {name}: {measure}."
    lower = judged.limit**2 / judged.high
    shown = f"{100 * lower:.3g}%" if judged.relative else format_quantity(kind, lower).replace(" ", "")
    return f"The {name} limit lies inside the measured interval: prune for less (--{kind.replace('_', '-')} {shown}), or {measure}."


def _how(run: RunSummary, kinds: Sequence[str]) -> str:
    """Where the figures of these kinds of budget come from: the kinds are named where there are several answers."""
    measured = [kind.replace("_", " ") for kind in run.measured_kinds or ()]
    by_source: dict[str, list[str]] = {}
    for kind in kinds:
        if kind in COUNTED:
            source = "as counted"
        elif not run.measured and kind not in measured:
            source = "as predicted, not measured"
        elif kind == "energy" and run.pruned.energy_modelled:
            source = "as modelled"
        else:
            source = "as measured"
        by_source.setdefault(source, []).append(kind)
    plain = "as measured" if "as measured" in by_source else next(iter(by_source), "as measured")
    others = [f"{' and '.join(named)} {source}" for source, named in by_source.items() if source != plain]
    return "; ".join([plain, *others])


def _named(name: str, run: RunSummary, kind: str) -> str:
    """A figure's name with where it comes from, if that is said."""
    method = (run.methods or {}).get(kind)
    return f"{name} ({method})" if method else name


def _or_dash(value: Any, show: Callable[[Any], str]) -> str:
    return DASH if value is None else show(value)


def _shower(kind: str, run: RunSummary) -> Callable[[float], str]:
    if kind == "max_drop":
        return partial(format_metric, size=run.dense.metric)
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


def _interval(model: ModelSummary) -> str:
    if model.low_ms is None or model.high_ms is None:
        return ""
    return f" [{format_quantity('latency', model.low_ms)}, {format_quantity('latency', model.high_ms)}]"


def _ratio(run: RunSummary) -> str | None:
    ratio = run.ratio
    if ratio is None or ratio.value is None:
        return None
    interval = "" if ratio.low is None or ratio.high is None else f" [{100 * ratio.low:.1f}, {100 * ratio.high:.1f}]"
    return f"{100 * ratio.value:.1f} %{interval}"


def _energy_method(model: ModelSummary) -> str:
    return model.energy_method or NO_METER


def _count(value: float) -> str:
    for suffix, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= factor:
            return f"{value / factor:.3g} {suffix}"
    return f"{value:.0f}"
