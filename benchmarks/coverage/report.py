"""The coverage benchmark's rows as a Markdown document."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.coverage.run import Results

Row = dict[str, Any]
ENOUGH = 0.95
"""Least share of a model's parameters, outside stems and heads, that should be in a prunable group."""

DEFINITIONS = """\
- **groups**: channel groups found; half of the units of every one is removed (chosen at random, at least one stays).
- **prunable**: share of the parameters' elements that prunable groups own, of all parameters that inference reads. A group owns what
  goes with its channels, whether it produces or reads them. **inside**: the same without the elements that stay in a stem (the first
  layer behind an input), and in layers whose channels reach the model's output or were protected.
- **parameters**, **MACs**: before and after, of the models that run, counted in one way for both: elements of the parameters that
  inference reads; half of the operations that `torch.utils.flop_counter` counts in one inference. Of detectors, which are captured by
  submodule, those of the submodules on what the original shows them: what lies between works as much as there are boxes.
- **analysis**: seconds of wall time, and of processor time, of `edgeprune.graph.analyze` in a process with one thread that has analysed a
  one-layer model before. **memory**: what the resident memory grew by at most during the analysis; **whole**: the most memory that the
  process held from start to end, with torch, the model, its pruned copies and the comparison.
- **way**: `modules` where the user's own modules were cut, `graph` where sizes are baked into code and the exported graph was.
- **error**: largest difference between the outputs of the pruned model and those of the original with the same channels masked, relative to
  the largest output; more than 1e-4 is a failure.
- **trains**: whether the cut model takes a training step: forward in training mode with two samples, a loss over all outputs, backward,
  an optimizer's step. Outputs that have another number or shape than the uncut model's in training, a loss that is not finite, or a
  parameter that has no gradient where the uncut model's has, is a failure. "uncut does not" says that the model itself does not train on
  these inputs; an empty cell, that the row was measured before there was this column.
- Weights are random, but nothing is left at zero or one; batch norms have the statistics of a random batch.
"""
SIZES = """\
Inputs, a batch of 1: 3x224x224 (inception_v3 3x299x299; timm models at their own size); detection one image 3x320x320, scaled to 320
where the model scales; video 3x16x112x112 (s3d and mvit 3x16x224x224); optical flow two images 3x128x128.
"""
PEER = """\
The column **Torch-Pruning** is release 1.6.1 in its standard use (`BasePruner`, `GroupMagnitudeImportance`, ratio 0.5, the output layers
ignored, head counts given), in a process of its own with 60 s and 6 GiB: seconds where it passed a forward pass with outputs of the right
shape. It does not compare what is computed; nor does this column.
"""


def document(results: Results, families: dict[str, str]) -> str:
    """The whole document from all rows; ``families``: the table of every known model, in order."""
    rows = [row | {"family": families[name]} for name in families if (row := results.get("edgeprune", name))]
    peers = {name: row for (kind, name), row in results.rows.items() if kind == "torch-pruning"}
    exports = [row for (kind, name), row in results.rows.items() if kind == "export" and name in families]
    parts = ["# Coverage: which models edgeprune prunes", _intro(rows, exports)]
    parts.append("## Totals\n\n" + _totals(rows, peers))
    for family in dict.fromkeys(families.values()):
        mine = [row for row in rows if row["family"] == family]
        if mine:
            parts.append(f"## {family[0].upper()}{family[1:]}\n\n" + _table(mine, peers) + _remarks(mine))
    if exports:
        parts.append("## Exported after pruning\n\n" + _exports(exports))
    parts.append("## What the columns say\n\n" + DEFINITIONS + "\n" + SIZES + ("\n" + PEER if peers else ""))
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _intro(rows: Sequence[Row], exports: Sequence[Row]) -> str:
    dates = sorted({row["date"] for row in (*rows, *exports)}) or ["never"]
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    tools = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "timm", "transformers", "keras") if _installed(name))
    states = len({row["version"] for row in rows})
    older = f" The rows are of {states} states of the code; `--resume` measures those of earlier ones again." if states > 1 else ""
    return f"""Written by `benchmarks.coverage`; every row is a process of its own. Measured {when} on {_machine()}, one
thread, beside other work; {tools}.{older}

    pip install -e .[dev,bench]
    python -m benchmarks.coverage --peers            # torchvision, beside Torch-Pruning
    python -m benchmarks.coverage --timm             # the smallest variant of every family
    python -m benchmarks.coverage --zoo              # recurrent networks, Keras, sensors
    python -m benchmarks.coverage --transformers     # Hugging Face, small
    python -m benchmarks.coverage --export           # pruned, exported, compared
    python -m benchmarks.coverage --only swin_t      # one; --resume skips what is measured with the present code"""


def _installed(name: str) -> bool:
    try:
        return bool(version(name))
    except ImportError:
        return False


def _machine() -> str:
    model = platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model) + f" ({model})"
    except OSError:
        return model


def _totals(rows: Sequence[Row], peers: dict[str, Row]) -> str:
    lines = [
        "| family | models | pass | train | least prunable inside | longest analysis (CPU) | most memory of an analysis | Torch-Pruning |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for family in dict.fromkeys(row["family"] for row in rows):
        mine = [row for row in rows if row["family"] == family]
        passed = [row for row in mine if not row["error"]]
        beside = [peers[row["model"]] for row in mine if row["model"] in peers]
        worked = [row for row in beside if row.get("outcome") == "pass"]
        least = min((row["prunable_inside"] for row in passed), default=None)
        lines.append(
            f"| {family} | {len(mine)} | {len(passed)} | {_trained(passed)} | {_percent(least)} "
            f"| {_longest(passed)} "
            f"| {_bytes(max((row['analysis_peak_bytes'] for row in passed), default=None))} "
            f"| {f'{len(worked)} of {len(beside)}' if beside else ''} |"
        )
    return "\n".join(lines)


def _trained(rows: Sequence[Row]) -> str:
    """How many took a training step, of those whose uncut model does and that were asked to."""
    asked = [row for row in rows if row.get("trains") and not row["trains"].startswith("uncut")]
    return f"{sum(row['trains'] == 'yes' for row in asked)} of {len(asked)}" if asked else ""


def _table(rows: Sequence[Row], peers: dict[str, Row]) -> str:
    titles = "model | groups | prunable | inside | parameters (M) | MACs (M) | analysis s (CPU) | memory | whole | way | error | trains"
    beside = any(row["model"] in peers for row in rows)
    lines = [f"| {titles} |{' Torch-Pruning |' if beside else ''}", "|---" + "|--:" * 8 + "|---|--:|---|" + ("---|" if beside else "")]
    for row in rows:
        cells = _cells(row) + ([_peer(peers.get(row["model"]))] if beside else [])
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cells(row: Row) -> list[str]:
    name = row["model"].partition("/")[2] or row["model"]
    if row["error"]:
        return [name, *[""] * 7, _bytes(row["peak_bytes"]), "**fails**", "", ""]
    return [
        name,
        str(row["groups"]),
        _percent(row["prunable"]),
        _percent(row["prunable_inside"]),
        _pair(row["parameters_before"], row["parameters_after"]),
        _pair(row["macs_before"], row["macs_after"]),
        f"{row['analysis_s']:.1f} ({row['analysis_cpu_s']:.1f})",
        _bytes(row["analysis_peak_bytes"]),
        _bytes(row["peak_bytes"]),
        row["mode"],
        f"{row['difference']:.0e}",
        _trains(row),
    ]


def _trains(row: Row) -> str:
    """Whether the cut model took a training step, and which layers no longer act in training."""
    said = row.get("trains", "")
    text = "uncut does not" if said.startswith("uncut") else said
    return f"{text}, but for {_short(', '.join(row['inactive'][:3]))}" if row.get("inactive") else text


def _peer(row: Row | None) -> str:
    if row is None:
        return ""
    if row["error"]:
        return _short(row["error"].partition(":")[0] if row["error"].partition(":")[0] not in ("memory", "timeout") else row["error"])
    return f"{row['prune_s']:.1f} s" if row["outcome"] == "pass" else _short(row["outcome"])


def _remarks(rows: Sequence[Row]) -> str:
    """What failed and why, and what keeps parameters from being pruned where that is more than a twentieth."""
    failed = [f"- {row['model']}: {_short(row['error'])}" for row in rows if row["error"]]
    low = [
        f"- {row['model']}: "
        + "; ".join(
            [f"{name} stays ({count:,} elements)" for name, count in row.get("stays", [])[:3]]
            + [f"{count} channels: {_short(reason)}" for reason, count in row["fixed"][:3]]
        )
        for row in rows
        if not row["error"] and row["prunable_inside"] < ENOUGH
    ]
    text = ""
    if failed:
        text += "\n\nFailures:\n\n" + "\n".join(failed)
    if low:
        text += f"\n\nLess than {ENOUGH:.0%} prunable inside, and why:\n\n" + "\n".join(low)
    return text


def _exports(rows: Sequence[Row]) -> str:
    lines = ["| model | format | seconds | size | largest difference |", "|---|---|--:|--:|--:|"]
    for row in rows:
        for name, entry in row.get("formats", {}).items():
            if entry.get("error"):
                lines.append(f"| {row['model']} | {name} | | | **fails**: {_short(entry['error'])} |")
            else:
                lines.append(
                    f"| {row['model']} | {name} | {entry['seconds']:.1f} | {_bytes(entry['size_bytes'])} | {entry['difference']:.1e} |"
                )
        if not row.get("formats"):
            lines.append(f"| {row['model']} | | | | **fails**: {_short(row['error'])} |")
    return "\n".join(lines) + "\n\nDifferences are between the file's outputs and the pruned model's, relative to the largest output."


def _short(text: str) -> str:
    """One line for a table."""
    line = " ".join(text.split()).replace("|", "\\|")
    return line if len(line) <= 200 else line[:197] + "..."


def _percent(share: float | None) -> str:
    return "" if share is None else f"{int(1000 * share) / 10:.1f} %"  # never rounded up


def _longest(rows: Sequence[Row]) -> str:
    return f"{max(row['analysis_s'] for row in rows):.1f} s ({max(row['analysis_cpu_s'] for row in rows):.1f} s)" if rows else ""


def _bytes(value: float | None) -> str:
    return "" if value is None else f"{value / 2**20:.0f} MiB"


def _pair(before: int, after: int) -> str:
    return " → ".join(f"{count / 1e6:,.0f}" if count >= 1e8 else f"{count / 1e6:.3g}" for count in (before, after))
