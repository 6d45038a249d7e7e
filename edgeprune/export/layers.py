"""Where in a network quantization loses what: every operator's output in the float and in the quantized file, compared."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgeprune.export.keep import MOVES
from edgeprune.export.parity import sqnr_db
from edgeprune.tflite import schema as flatbuffer
from edgeprune.tflite.file import TfliteFile
from edgeprune.tflite.interpreter import invoke, open_tflite, value_of

WORST = 3
"""Layers that an error names."""


@dataclass(frozen=True)
class LayerError:
    """One operator: ``name`` of its output, ``operator``, ``sqnr_db`` of its output (power over that of the error), and ``loss_db``, how
    much lower that is than the worst of its inputs."""

    name: str
    operator: str
    sqnr_db: float
    loss_db: float

    def __str__(self) -> str:
        return f"{self.operator} {self.name} ({self.sqnr_db:.1f} dB, {self.loss_db:.1f} dB lower than its inputs)"


def layer_errors(float_tflite: bytes, quantized: bytes, samples: Sequence[tuple[Tensor, ...]]) -> list[LayerError]:
    """Every operator of the float file whose output the quantized one has too, in order of execution.  ``samples``: inputs as the
    files take them."""
    want, got = _activations(float_tflite, samples), _activations(quantized, samples)
    model, found = flatbuffer.read(float_tflite), []
    sqnr: dict[str, float] = {}
    for kind, _, operator, graph in flatbuffer.operators(model):
        names = [flatbuffer.text(graph.tensors[index].name) for index in operator.inputs if index >= 0]
        for index in operator.outputs:
            name = flatbuffer.text(graph.tensors[index].name)
            if name not in want or name not in got or want[name].shape != got[name].shape or not want[name].is_floating_point():
                continue
            sqnr[name] = sqnr_db(want[name], got[name])
            before = min((sqnr[item] for item in names if item in sqnr), default=100.0)
            found.append(LayerError(name, kind, sqnr[name], min(before, 100.0) - min(sqnr[name], 100.0)))
    return found


def worst_layers(float_tflite: bytes, quantized: bytes, samples: Sequence[tuple[Tensor, ...]], count: int = WORST) -> list[LayerError]:
    """The ``count`` layers that lose most, in order of execution."""
    errors = layer_errors(float_tflite, quantized, samples)
    worst = sorted(errors, key=lambda item: item.loss_db, reverse=True)[:count]
    return [item for item in errors if item in worst]


def maker_of(content: bytes, output: int) -> str:
    """The operator that computes an output, in words, behind those that only move it."""
    file = TfliteFile(content)
    tensor = int(file.graph.outputs[output])
    makers = {int(made): operator for operator in file.operators for made in operator.outputs}
    while tensor in makers and file.operation(makers[tensor]) in MOVES:
        tensor = int(makers[tensor].inputs[0])
    return f"{file.operation(makers[tensor])} {file.name(tensor)}" if tensor in makers else f"input {file.name(tensor)}"


def _activations(content: bytes, samples: Sequence[tuple[Tensor, ...]]) -> dict[str, Tensor]:
    """Every tensor by name, over all samples, as real numbers."""
    interpreter = open_tflite(content, keep_all=True)
    details = {detail["name"]: detail for detail in interpreter.get_tensor_details() if detail["name"]}
    seen: dict[str, list[Tensor]] = {name: [] for name in details}
    for sample in samples:
        invoke(interpreter, sample)
        for name, detail in details.items():
            with contextlib.suppress(ValueError):  # a tensor that was never computed
                seen[name].append(value_of(interpreter, detail))
    return {name: torch.stack(values) for name, values in seen.items() if len(values) == len(samples)}
