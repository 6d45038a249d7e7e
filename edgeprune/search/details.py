"""What a report shows beside the figures: layers, samples, the device's state, and how the run came about."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import numpy as np

from edgeprune.bench import Measurement
from edgeprune.bench.conditions import Conditions
from edgeprune.cost.kernels import Kernel, macs, weights
from edgeprune.cost.latency import LatencyModel
from edgeprune.cost.width import Widths
from edgeprune.decode import JsonObject
from edgeprune.graph.flow import module_of
from edgeprune.runs.summary import LayerSummary, SessionSummary
from edgeprune.search.options import Options

_NEGATED = ("sensitivity", "reconstruction", "reuse", "mixed_precision")


def layers_of(latency: LatencyModel, dense: Widths, kept: Widths) -> list[LayerSummary]:
    """Every operation that the runtime executes, in order, at the widths of the dense and of the pruned model."""
    return [_layer(latency, kernel, dense, kept) for kernel in latency.kernels]


def _layer(latency: LatencyModel, kernel: Kernel, dense: Widths, kept: Widths) -> LayerSummary:
    gone = bool(kernel.block) and kept[kernel.block[0]] == 0
    before = kernel.in_width.at(dense), kernel.out_width.at(dense)
    after = (0.0, 0.0) if gone else (kernel.in_width.at(kept), kernel.out_width.at(kept))
    return LayerSummary(
        name=module_of(kernel.node),
        kind=kernel.spec.kind,
        inputs=(round(before[0]), round(after[0])),
        outputs=(round(before[1]), round(after[1])),
        weights=(round(weights(kernel.spec, *before)), round(weights(kernel.spec, *after))),
        macs=(round(macs(kernel.spec, *before)), round(macs(kernel.spec, *after))),
        latency_ms=(latency.kernel_ms(kernel, *before), 0.0 if gone else latency.kernel_ms(kernel, *after)),
    )


def percentiles_ms(measured: Measurement) -> list[float]:
    """The 0th, 1st, ... 100th percentile of the samples; empty without samples."""
    if not measured.samples_ns:
        return []
    found = np.percentile(np.asarray(measured.samples_ns, float), range(101)) / 1e6
    return [float(f"{value:.5g}") for value in found]


def session_of(name: str, measured: Measurement) -> SessionSummary:
    """The state of the device about a measurement."""
    before, after = measured.before, measured.after
    return SessionSummary(
        name,
        (_hottest(before), _hottest(after)),
        (_clock(before), _clock(after)),
        (before.get("loadavg"), after.get("loadavg")),
        list(measured.throttled),
        len(measured.samples_ns),
    )


def _hottest(state: Conditions) -> float | None:
    return max((state.get("temperatures_c") or {}).values(), default=None)


def _clock(state: Conditions) -> float | None:
    clocks = state.get("clocks_mhz") or []
    return float(np.mean(clocks)) if clocks else None


def origin_of(inputs: JsonObject) -> dict[str, str]:
    """How a run of those ``inputs`` (of run.json) came about: what starts the same one again, its recipe, seed and model."""
    found = {"command": command_of(inputs)}
    if recipe := inputs.get("recipe"):
        found["recipe"] = str(recipe)
        try:
            found["recipe SHA-256"] = sha256(Path(str(recipe)).read_bytes()).hexdigest()
        except OSError:
            found["recipe SHA-256"] = "not known: the file is gone"
    options = inputs.get("options")
    found["random seed"] = str(options.get("seed", 0)) if isinstance(options, dict) else "0"
    if model := inputs.get("model"):
        found["model SHA-256"] = f"{model}…"
    return found


def command_of(inputs: JsonObject) -> str:
    """The command, or the call where there was no recipe file, that asks for the same run."""
    words = [*_limits(inputs.get("budget")), *_changed(inputs.get("options"))]
    if not (recipe := inputs.get("recipe")):
        return f"edgeprune.prune(task, ...)  # as: edgeprune prune {shlex.join(_where(inputs) + words)}"
    return shlex.join(["edgeprune", "prune", str(recipe), *_where(inputs), *words])


def _where(inputs: JsonObject) -> list[str]:
    return [word for name in ("target", "profile") if (value := inputs.get(name)) for word in (f"--{name}", str(value))]


def _limits(budget: object) -> list[str]:
    limits = budget if isinstance(budget, dict) else {}
    return [word for kind, text in limits.items() if text is not None for word in (_flag(kind), str(text))]


def _changed(options: object) -> list[str]:
    usual, words = asdict(Options()), list[str]()
    for name, value in (options if isinstance(options, Mapping) else {}).items():
        if name not in usual or _listed(value) == _listed(usual[name]):
            continue
        if isinstance(usual[name], bool):
            words.append(_flag(f"no_{name}" if name in _NEGATED else name))
        else:
            words += [_flag("format" if name == "formats" else name), _listed(value)]
    return words


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _listed(value: object) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
