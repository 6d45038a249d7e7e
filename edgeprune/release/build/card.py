"""The model card: what a person reads of a release, in Markdown.

Source of its sections: Mitchell et al., "Model Cards for Model Reporting", FAT* 2019.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeprune.budget import format_quantity, format_score
from edgeprune.release.build.limits import describe
from edgeprune.release.bundle.manifest import Evidence, Variant
from edgeprune.runs.summary import RunSummary

if TYPE_CHECKING:
    from edgeprune.runs.finished import FinishedRun


def card(product: str, version: str, created: str, variants: dict[str, Variant], runs: dict[str, FinishedRun]) -> bytes:
    """The card of a release whose variants were made by ``runs``."""
    lines = [
        f"# {product} {version}",
        "",
        f"Pruned and measured by edgeprune; made {created}. Figures are of the exported files themselves.",
    ]
    for name, variant in variants.items():
        lines += ["", f"## {name}", "", *_variant(variant, runs[name].result)]
    lines += ["", "## Limits", ""]
    lines += [
        "- Latency, memory and energy hold for the devices, runtimes and thread counts named; other devices differ.",
        "- The metric is over the task's validation data; data from elsewhere may score otherwise.",
        "- A release says nothing of what the training data lacked.",
    ]
    return ("\n".join(lines) + "\n").encode()


def _variant(variant: Variant, result: RunSummary) -> list[str]:
    asked = variant.compatibility
    lines = [
        f"- Task: {result.task}, {_inputs(result)}",
        f"- Devices: {', '.join(asked.profiles or asked.boards or ('any',))}; {', '.join(asked.architectures) or 'any'};"
        f" {format_quantity('memory', asked.min_memory_bytes)} of memory or more",
        f"- Runtime: {', '.join(f'{one.package} {one.versions}'.strip() for one in asked.runtimes) or 'not known'}",
    ]
    if variant.gates:
        lines.append(f"- Gates met: {'; '.join(map(describe, variant.gates))}")
    lines += ["", "| file | format | size | measured |", "|---|---|---|---|"]
    measured = {item.artifact for item in variant.evidence}
    for file in variant.files:
        if file.role in ("model", "alternative"):
            mark = "yes" if file.sha256 in measured else "no"
            lines.append(f"| {file.path} | {file.format} | {format_quantity('size', file.bytes)} | {mark} |")
    lines += ["", *_evidence(variant.evidence)]
    return [*lines, "", *_pruning(result)]


def _inputs(result: RunSummary) -> str:
    shapes = ["x".join(map(str, one.shape)) + f" {one.dtype}" for one in result.inputs]
    labels = result.labels
    return f"inputs {', '.join(shapes) or 'not stated'}" + (f", {len(labels)} classes" if labels else "")


def _evidence(found: tuple[Evidence, ...]) -> list[str]:
    if not found:
        return ["Nothing of this was measured on a device."]
    lines = [f"| device | runtime | threads | measured | {' | '.join(figures(found[0]))} |", "|---|---|---|---|---|---|---|---|"]
    for item in found:
        runtime = f"{item.runtime} {item.runtime_version}"
        lines.append(f"| {item.device} | {runtime} | {item.threads} | {item.measured_at} | {' | '.join(figures(item).values())} |")
    return lines


def figures(item: Evidence) -> dict[str, str]:
    """What was measured, as a person reads it: latency, peak memory, energy, and the metric by its name."""
    times = [format_quantity("latency", value) for value in (item.latency_ms, item.low_ms, item.high_ms) if value is not None]
    energy = "no meter" if item.energy_mj is None else f"{format_quantity('energy', item.energy_mj)} ({item.energy_method})"
    return {
        "latency": f"{times[0]} ({times[1]} to {times[2]})" if len(times) == 3 else "not measured",
        "peak memory": format_quantity("memory", item.peak_bytes),
        "energy": energy,
        item.metric_name or "metric": "not scored" if item.metric is None else format_score(item.metric, item.metric_error),
    }


def _pruning(result: RunSummary) -> list[str]:
    dense, pruned = result.dense, result.pruned
    lines = ["| | original | pruned |", "|---|---|---|"]
    for name, kind in (("parameters", "parameters"), ("multiply-adds", "macs"), ("bytes of the file", "size")):
        lines.append(f"| {name} | {dense.of(kind) or 0:,.0f} | {pruned.of(kind) or 0:,.0f} |")
    if dense.metric is not None and pruned.metric is not None:
        lines.append(f"| {result.metric_name} (of the PyTorch model) | {dense.metric:.4g} | {pruned.metric:.4g} |")
    return lines
