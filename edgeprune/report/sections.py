"""The sections of a report as values for its template; None where a run has nothing to show there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from edgeprune.budget import counted, format_quantity
from edgeprune.report import charts
from edgeprune.report.summary import DASH
from edgeprune.runs.summary import CandidateSummary, LayerSummary, RunSummary

Section = dict[str, Any]


def layers(run: RunSummary) -> Section | None:
    """Where the latency goes."""
    if not run.layers:
        return None
    before, after = (sum(one.latency_ms[place] for one in run.layers) for place in (0, 1))
    source = "single layers measured on the device" if run.layers_measured else "predicted, not measured"
    fitted = "fitted to the latencies of the whole models that were measured" if run.measured else "nothing was measured"
    said = (
        f"Together the layers take {format_quantity('latency', before)} before and {format_quantity('latency', after)} after, as the cost "
        f"model has it ({fitted}); the rest is the cost of a call. Batch norms and activations are part of the layer before them."
    )
    shown, rest = charts.slowest(run.layers)
    caption = "Latency of each layer, before and after." if not rest else f"The {len(shown)} slowest layers, and the others as one."
    header = ["layer", "operation", "in", "out", "weights", "MACs", "before", "after", "of dense"]
    drawn = Markup(charts.latency_by_layer(run.layers))
    return {
        "source": source,
        "said": said,
        "chart": drawn,
        "caption": caption,
        "header": header,
        "body": [_layer(one) for one in run.layers],
    }


def _layer(one: LayerSummary) -> list[str]:
    ms = [format_quantity("latency", value) for value in one.latency_ms]
    share = DASH if not one.latency_ms[0] else f"{100 * one.latency_ms[1] / one.latency_ms[0]:.0f} %"
    return [one.name, one.kind, _arrow(*one.inputs), _arrow(*one.outputs), *map(_amounts, (one.weights, one.macs)), *ms, share]


def _amounts(pair: tuple[int, int]) -> str:
    return _arrow(*(format_quantity("macs", value) for value in pair)) if pair != (0, 0) else DASH


def _arrow(before: object, after: object) -> str:
    return str(before) if before == after else f"{before} → {after}"


def cut(run: RunSummary) -> Section | None:
    """What the plan keeps of each group."""
    if not (groups := run.groups):
        return None
    kept, total = sum(group.kept for group in groups), sum(group.total for group in groups)
    body = [[one.name, f"{one.total}", f"{one.kept}", f"{100 * one.kept / one.total:.0f} %" if one.total else DASH] for one in groups]
    return {
        "badge": f"{kept} of {counted(total, 'channel')} kept in {counted(len(groups), 'group')}",
        "gone": [one.name for one in groups if one.kept == 0],
        "chart": Markup(charts.kept_widths(groups)),
        "body": body,
    }


def objectives(run: RunSummary) -> Section | None:
    """Which plans were compared before the search measured any, and which one won."""
    if not run.objectives:
        return None
    staged, trained = len({one.stage for one in run.objectives}) > 1, any(one.raced is not None for one in run.objectives)
    body = []
    for one in run.objectives:
        name = f"{one.name}, stage {one.stage + 1}" if staged else one.name
        raced = DASH if one.raced is None else f"{one.raced:.3g}"
        body.append([name, f"{one.divergence:.3g}", *([raced] if trained else []), f"{one.latency_ms:.4g}", "kept" if one.chosen else ""])
    said = (
        "Each objective's plan was cut and its weights reconstructed, without training. The one whose answers diverge least from the dense "
        "model's, on training data that nothing else had used, was kept."
    )
    header = ["objective", "divergence", *(["after a short training"] if trained else []), "predicted, ms", "choice"]
    chosen = next((place for place, one in enumerate(run.objectives) if one.chosen), None)
    return {"said": said, "header": header, "body": body, "chosen": chosen}


def plans(run: RunSummary) -> Section | None:
    """The plans of the search: predicted, measured, and the model that was kept."""
    if not (found := run.candidates):
        return None
    limit = run.budget["latency"].limit if "latency" in run.budget else None
    header = ["plan", "predicted, ms", "measured, ms", "interval, ms", "prediction off by", "of dense"]
    body = [[str(number), *_candidate(one)] for number, one in enumerate(found, 1)]
    final = _final(run)
    if final is not None:
        body.append(["kept, tuned", *_candidate(final)])
    if any(one.board for one in found):
        header.append("measured by")
        body = [[*row, one.board or DASH] for row, one in zip(body, [*found, *([final] if final else [])], strict=True)]
    pruned = run.pruned
    end = (pruned.latency_ms, pruned.low_ms, pruned.high_ms)
    kept = end if final is not None and None not in end else None
    drawn = charts.candidates(found, limit, kept)  # type: ignore[arg-type]
    return {"chart": Markup(drawn), "header": header, "body": body, "chosen": len(found) if final is not None else None}


def _final(run: RunSummary) -> CandidateSummary | None:
    """The model that was kept, beside the plans."""
    model, ratio = run.pruned, run.ratio
    if not run.measured or model.latency_ms is None:
        return None
    return CandidateSummary(run.final_prediction_ms, model.latency_ms, model.low_ms, model.high_ms, ratio.value if ratio else None)


def _candidate(one: CandidateSummary) -> list[str]:
    predicted, measured, low, high, ratio = one.predicted_ms, one.measured_ms, one.low_ms, one.high_ms, one.ratio
    return [
        DASH if predicted is None else f"{predicted:.4g}",
        "not measured" if measured is None else f"{measured:.4g}",
        DASH if low is None or high is None else f"{low:.4g} – {high:.4g}",
        DASH if predicted is None or not measured else f"{100 * (predicted / measured - 1):+.1f} %",
        DASH if ratio is None else f"{100 * ratio:.1f} %",
    ]


def samples(run: RunSummary) -> Section | None:
    """The distribution of the final measurement's runs."""
    if not (found := {name: values for name, values in run.samples.items() if len(values) == 101}):
        return None
    body = [[name, *(format_quantity("latency", values[place]) for place in (0, 50, 90, 99, 100))] for name, values in found.items()]
    return {"chart": Markup(charts.samples(found)), "body": body}


def tuning(run: RunSummary) -> Section | None:
    """The metric and the loss by epoch, with what they are compared with."""
    name = run.metric_name or "metric"
    lines = _levels(run)
    series = [(name, [(entry.epoch, entry.score) for entry in run.history], lines), ("loss", [(e.epoch, e.loss) for e in run.history], {})]
    drawn = []
    for vertical, values, levels in series:
        points = [(epoch, value) for epoch, value in values if value is not None]
        if len(points) > 1:
            caption = f"{vertical} by epoch; epoch 0 is before the training. The vertical axis does not start at zero."
            drawn.append({"chart": Markup(charts.curve(points, "epoch", vertical, levels)), "caption": caption})
    if not drawn:
        return None
    header = ["epoch", "step", "loss", "learning rate", name]
    body = [[f"{e.epoch:g}", *_figures((e.step, e.loss, e.learning_rate, e.score))] for e in run.history]
    return {"charts": drawn, "header": header, "body": body}


def _levels(run: RunSummary) -> dict[str, float]:
    """The dense model's metric, and the least that the budget allows."""
    dense, drop = run.dense.metric, run.budget["max_drop"].limit if "max_drop" in run.budget else None
    found = {} if dense is None else {"dense": dense}
    if dense is not None and drop is not None:
        found["floor"] = dense - drop if run.higher_is_better else dense + drop
    return found


def _figures(values: Sequence[float | None]) -> list[str]:
    return [DASH if value is None else f"{value:.4g}" for value in values]


def heat(run: RunSummary) -> Section | None:
    """Temperature, clock and load about each measurement."""
    if not run.sessions:
        return None
    header = ["measurement", "samples", "temperature, °C", "clock, MHz", "load", "throttled"]
    body = [
        [
            one.name,
            f"{one.samples:,}",
            *(_pair(pair, digits) for pair, digits in ((one.temperature_c, 0), (one.clock_mhz, 0), (one.load, 2))),
            ", ".join(one.throttled) or "no",
        ]
        for one in run.sessions
    ]
    return {"header": header, "body": body}


def _pair(pair: tuple[float | None, float | None], digits: int) -> str:
    before, after = (None if value is None else f"{value:.{digits}f}" for value in pair)
    if before is None and after is None:
        return "not reported"
    return _arrow(before or DASH, after or DASH)
