"""The export benchmark's rows as a Markdown document."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

TITLES = {
    "cifar10_resnet56": "ResNet-56, CIFAR-10",
    "cifar10_mobilenetv2": "MobileNetV2 for 32x32, CIFAR-10",
    "fsdd": "DS-CNN, spoken digits",
    "har": "1-D CNN, accelerometer",
    "snips": "Embedding and convolution, intents of sentences",
    "ecg": "1-D CNN, heart beats",
}
NOTES = """\
- **accuracy**: the task's own metric, computed with the exported file on this machine, one inference at a time, over all validation data.
- **parity**: signal to noise of the file's outputs against the PyTorch model's on 64 validation inputs (power of the outputs over that of
  the error, in decibels), and in how many the largest class is the same.
- **latency**: median of one inference, one thread; **ratio**: to the float TFLite file, measured in turns with it in one session, with its
  95 % interval; inconclusive where other work on the machine disturbed the turns too much. `.pt2` has no runtime on devices.
- **needs**: the first TensorFlow Lite release whose kernels run the file right; `edgeprune bench` and `prune` check it before they send
  a file.
- **export**: seconds from the model to a file that was compared, the converter warm but for the first of a run.
- TorchScript is traced and frozen. `optimize_for_mobile` is not applied: it needs a PyTorch built with XNNPACK, which the wheels of today
  are not; the runner applies `optimize_for_inference` on the device.
- int8: 128 calibration inputs from the training data; weights by channel, symmetric; activations by tensor between the least and the
  largest value seen; inputs and outputs float.
"""

BY_HAND = "<!-- From here on written by hand. -->\n"
"""What ends the written part of the document; all after it is kept when the part is written again."""


def document(rows: Mapping[str, Row], formats: Sequence[str], known: str = "") -> str:
    """The whole document; ``rows``: by recipe, ``formats``: in the order of the tables. ``known``: it as it is, whose part written
    by hand stays."""
    parts = ["# Exports: what every format costs and gives", _intro(rows), "## int8 against float32", _summary(rows)]
    for name, row in rows.items():
        parts += [f"## {TITLES[name]}", _about(name, row), _table(row, formats)]
    return "\n\n".join([*parts, "## What the columns say", NOTES.strip(), "".join(known.partition(BY_HAND)[1:])]).rstrip() + "\n"


def _intro(rows: Mapping[str, Row]) -> str:
    dates = sorted({row["date"] for row in rows.values()}) or ["never"]
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    newest = max(rows.values(), key=lambda row: row["date"], default=None)
    tools = ", ".join(f"{name} {number}" for name, number in newest["versions"].items()) if newest else ""
    machine = newest["machine"] if newest else ""
    return (
        f"Written by `python -m benchmarks.exports` (`make bench` runs it too). Measured {when} on {machine}, beside other work; {tools}.\n"
        "Every file was exported from the recipe's unpruned model."
    )


def _summary(rows: Mapping[str, Row]) -> str:
    lines = ["| task | float32 | int8 | difference | size | latency |", "|---|---|---|---|---|---|"]
    for name, row in rows.items():
        real, small = (row["files"].get(form, {}) for form in ("tflite", "tflite-int8"))
        if "score" in real and "score" in small:
            lines.append(
                f"| {TITLES[name]} | {real['score']:.2f} | {small['score']:.2f} | {small['score'] - real['score']:+.2f} | "
                f"{small['bytes'] / real['bytes']:.2f} x | {_ratio(small, real)} |"
            )
    return "\n".join(lines)


def _about(name: str, row: Row) -> str:
    return f"`recipes/{name}.py`: {row['parameters']:,} parameters, {row['metric']} {row['score']:.2f} in PyTorch."


def _table(row: Row, formats: Sequence[str]) -> str:
    lines = ["| format | accuracy | parity | size, bytes | latency, ms | ratio | needs | export, s |", "|---|---|---|---|---|---|---|---|"]
    for form in formats:
        file = row["files"].get(form)
        if file is None:
            continue
        if "error" in file:
            lines.append(f"| {form} | {file['error'].replace('|', '/')} | | | | | | |")
            continue
        latency = f"{file['latency_ms']:.3f}" if "latency_ms" in file else ""
        needs = f"TFLite {file['tensorflow_lite']}" if file.get("tensorflow_lite") else ""
        cells = [
            form,
            f"{file['score']:.2f}",
            _parity(file),
            f"{file['bytes']:,}",
            latency,
            _ratio(file, row["files"].get("tflite", {})),
            needs,
            str(file["export_s"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _parity(file: Row) -> str:
    near = "equal" if math.isinf(file["sqnr_db"]) else f"{file['sqnr_db']:.0f} dB"
    return near if file["agreement"] is None else f"{near}, {100 * file['agreement']:.0f} %"


def _ratio(file: Row, base: Row) -> str:
    if file.get("verdict") == "inconclusive" and "latency_ms" in base:
        return f"{file['latency_ms'] / base['latency_ms']:.2f} of medians, inconclusive"
    return f"{file['ratio']:.2f} ({file['ratio_low']:.2f} to {file['ratio_high']:.2f})" if "ratio" in file else ""
