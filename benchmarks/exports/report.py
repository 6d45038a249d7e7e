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

RECURRENT = """\
Recurrent layers are kept whole: `nn.LSTM` becomes `UNIDIRECTIONAL_SEQUENCE_LSTM`, `nn.RNN` becomes `UNIDIRECTIONAL_SEQUENCE_RNN`, \
and `nn.GRU`, which TFLite has no operator for, a `WHILE` of one step.
The file has as many operators for 400 steps as for 4.
This holds for several layers, both directions (each an operator of its own, \
one with its steps reversed), `batch_first` or not, projections, no biases, \
and first states that the model is given.

- **State**: TFLite keeps the state of these operators from one inference to the next, until the application resets it.
  Operators before them set it at every inference: to zero, as PyTorch does, or to the states that come in.
  A model that streams takes its states as inputs and gives them as outputs (`h_n`, `c_n`); the application hands them on.
- **tflite-int8**: the LSTM's integer kernel, with int8 activations and an int16 cell state.
  Plain RNNs have no int8 kernel and become a loop like the GRU, with int8 products and gates; the state of a GRU is float32.
  `--keep-float` with the layer's name keeps it float32.
- **tflite-dynamic** stores int8 weights, **tflite-fp16** float16 ones; activations are float32.
- **Old runtimes**: tflite-runtime 2.14 and ai-edge-litert 2.3 compute the same, with and without XNNPACK.
  The state tensors are the output of an operator, which the interpreters take and TensorFlow's offline verifier does not.
- **Speed**: a loop copies the sequence at every step, which costs less than the layer up to some hundred steps.
  On x86-64 the integer LSTM kernel is plain C and slower than the float one.
  On an emulated aarch64 board (ratios of work, 25 steps, beside the unrolled file): LSTM 1.04 in float, 0.17 in int8; \
GRU 1.4 and 2.8, since loops are not delegated.
  `edgeprune bench` on the device says which format is better.
- What is unrolled is said, with the number of operators: `nn.LSTMCell`, `nn.GRUCell` and `nn.RNNCell` \
in a Python loop, and layers whose weights are computed (parametrizations).

`python -m benchmarks.recurrent`, one layer of 64 from 40 inputs, beside its cell in a Python loop (x86-64, beside other work):

| layer | steps | format | bytes | unrolled | operators | unrolled | time to unrolled |
|---|---|---|---|---|---|---|---|
| LSTM | 25 | tflite | 113,184 | 163,712 | 5 | 420 | 1.51 |
| LSTM | 25 | tflite-int8 | 33,344 | 204,528 | 8 | 422 | 11.88 |
| LSTM | 100 | tflite | 113,184 | 314,608 | 5 | 1695 | 0.42 |
| LSTM | 100 | tflite-int8 | 33,344 | 701,344 | 8 | 1697 | 12.70 |
| GRU | 25 | tflite | 88,912 | 142,912 | 19 | 472 | 1.07 |
| GRU | 25 | tflite-int8 | 29,200 | 174,800 | 25 | 474 | 1.16 |
| GRU | 100 | tflite | 88,912 | 312,416 | 19 | 1897 | 0.64 |
"""


def document(rows: Mapping[str, Row], formats: Sequence[str]) -> str:
    """The whole document; ``rows``: by recipe, ``formats``: in the order of the tables."""
    parts = ["# Exports: what every format costs and gives", _intro(rows), "## int8 against float32", _summary(rows)]
    for name, row in rows.items():
        parts += [f"## {TITLES[name]}", _about(name, row), _table(row, formats)]
    return "\n\n".join([*parts, "## What the columns say", NOTES.strip(), "## Recurrent layers", RECURRENT.strip()]) + "\n"


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
