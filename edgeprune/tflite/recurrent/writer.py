"""Operators written one after the other into a graph of a TFLite file."""

from __future__ import annotations

import itertools
from typing import Any, Final, Literal

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgeprune.tflite.file import Scale, TfliteFile
from edgeprune.tflite.ranges import Array, Ranges

Mode = Literal["float", "fp16", "hybrid", "int8"]
"""How numbers are stored: weights and activations in float32; weights in float16; int8 weights under float32 activations; int8 both."""

_VERSIONS: Final = {
    ("ADD", np.int8): 2,
    ("CONCATENATION", np.int16): 3,
    ("DEQUANTIZE", np.int8): 2,
    ("DEQUANTIZE", np.int16): 3,
    ("DEQUANTIZE", np.float16): 3,
    ("FILL", np.int8): 3,
    ("FULLY_CONNECTED", np.int8): 4,
    ("GATHER", np.int8): 2,
    ("LOGISTIC", np.int8): 2,
    ("MUL", np.int8): 2,
    ("QUANTIZE", np.int8): 2,
    ("QUANTIZE", np.int16): 2,
    ("REVERSE_V2", np.int8): 3,
    ("SLICE", np.int16): 4,
    ("SPLIT", np.int8): 2,
    ("STRIDED_SLICE", np.int8): 2,
    ("TANH", np.int8): 2,
    ("UNIDIRECTIONAL_SEQUENCE_LSTM", np.int8): 3,
}
"""Versions of operators by the type they read (tensorflow/lite/tools/versioning/op_version.cc); 1 where nothing is said."""


class Writer:
    """Writes into ``file`` before the operator at ``place``.  Tensors are named after ``name``; in a loop's graphs only those
    that a reader of the file looks for: names take room.  ``ranges``: of what is to be int8."""

    def __init__(self, file: TfliteFile, place: int, name: str, mode: Mode = "float", ranges: Ranges | None = None) -> None:
        self.file, self.place, self.name, self.mode = file, place, name, mode
        self._ranges, self._inside, self._numbers = ranges, False, itertools.count()
        self._constants: dict[tuple[Any, ...], int] = {}

    @property
    def integer(self) -> bool:
        """Whether activations are int8."""
        return self.mode == "int8"

    @property
    def ranges(self) -> Ranges:
        """Ranges of what the cell computes, which int8 needs."""
        assert self._ranges is not None
        return self._ranges

    def within(self, file: TfliteFile) -> Writer:
        """The same for the end of another graph."""
        inner = Writer(file, len(file.operators), self.name, self.mode, self._ranges)
        inner._inside = True
        return inner

    def op(self, operation: str, inputs: list[int], output: int, options: Any = None, version: int | None = None) -> int:
        """Write an operator with one output; its ``options``' class names their type.  Returns ``output``."""
        kind = None if options is None else (type(options).__name__.removesuffix("T"), options)
        first = self.file.dtype(inputs[1 if operation == "SPLIT" else 0])
        self.file.add_operator(self.place, operation, inputs, [output], kind, version or _VERSIONS.get((operation, first), 1))
        self.place += 1
        return output

    def tensor(self, shape: tuple[int, ...], dtype: Any = np.float32, scale: Scale | None = None, name: str | None = None) -> int:
        """A tensor that an operator computes."""
        return self.file.new_tensor(self._title(name), shape, dtype, scale=scale)

    def state(self, shape: tuple[int, ...], dtype: Any, scale: Scale | None, name: str) -> int:
        """A variable tensor, which keeps its values from step to step (and from inference to inference)."""
        tensor = self.tensor(shape, dtype, scale, name)
        self.file.graph.tensors[tensor].isVariable = True
        return tensor

    def constant(self, values: Any, dtype: Any = np.int32, scale: Scale | None = None) -> int:
        """A constant, stored once."""
        array = np.asarray(values, dtype)
        key = (array.tobytes(), array.shape, array.dtype.str, scale)
        if key not in self._constants:
            self._constants[key] = self.file.new_tensor(self._title(), array.shape, dtype, array, scale)
        return self._constants[key]

    def _title(self, name: str | None = None) -> str:
        return "" if self._inside and name is None else f"{self.name}.{name or next(self._numbers)}"

    def weight(self, values: Array) -> int:
        """A matrix: float32, float16 behind a ``DEQUANTIZE``, or int8, symmetric, with one scale."""
        if self.mode == "float":
            return self.constant(values, np.float32)
        if self.mode == "fp16":
            return self.op("DEQUANTIZE", [self.constant(values, np.float16)], self.tensor(values.shape))
        scale = weight_scale(values)
        return self.constant(np.clip(np.round(values / scale), -127, 127), np.int8, Scale(scale))

    def bias(self, values: Array, source: Scale | None, weights: Array) -> int:
        """A bias: float32, or int32 of the product's scale where activations are int8."""
        if not self.integer:
            return self.constant(values, np.float32)
        assert source is not None
        scale = source.scale * weight_scale(weights)
        limit = 2**31 - 1
        return self.constant(np.clip(np.round(values.astype(np.float64) / scale), -limit, limit), np.int32, Scale(scale))

    def scale(self, name: str) -> Scale | None:
        """The int8 scale of a watched value; None where activations are float."""
        return self.ranges.int8(name) if self.integer else None

    def fully_connected(self, x: int, weights: Array, bias: Array, name: str) -> int:
        """A product with ``weights`` (rows of the output), and the bias; ``name``: of the watched value."""
        rows, source = self.file.shape(x)[0], self.file.scale(x)
        y = self.tensor((rows, weights.shape[0]), self.file.dtype(x), self.scale(name), name)
        options = schema.FullyConnectedOptionsT()
        version = 3 if self.mode == "hybrid" else None
        return self.op("FULLY_CONNECTED", [x, self.weight(weights), self.bias(bias, source, weights)], y, options, version)

    def reversed(self, x: int, axis: int, y: int | None = None) -> int:
        """``x`` from the last to the first along ``axis``."""
        if y is None:
            y = self.tensor(self.file.shape(x), self.file.dtype(x), self.file.scale(x))
        return self.op("REVERSE_V2", [x, self.constant([axis])], y, schema.ReverseV2OptionsT())

    def step(self, x: int, dim: int, place: int) -> int:
        """The step ``place`` of a sequence, whose dimension ``dim`` counts steps."""
        shape = self.file.shape(x)
        begin, end = [0, 0, 0], list(shape)
        begin[dim], end[dim] = place, place + 1
        options = schema.StridedSliceOptionsT()
        options.shrinkAxisMask = 1 << dim
        y = self.tensor((shape[1 - dim], shape[2]), self.file.dtype(x), self.file.scale(x))
        return self.op("STRIDED_SLICE", [x, self.constant(begin), self.constant(end), self.constant([1, 1, 1])], y, options)

    def zeros(self, shape: tuple[int, ...], y: int) -> int:
        """Fill ``y`` with what stands for zero.  (Runtimes compute FILL at every inference: other operators on constants only once.)"""
        dtype, scale = self.file.dtype(y), self.file.scale(y)
        value = self.constant(scale.zero if scale else 0, dtype, scale)
        return self.op("FILL", [self.constant(shape), value], y, schema.FillOptionsT())

    def copied(self, x: int, y: int) -> int:
        """Write the float tensor ``x`` into ``y``, at every inference though it is constant."""
        shape = self.file.shape(x)
        floating = self.file.dtype(y) == np.float32
        if self.file.is_constant(x):
            x = self.op("ADD", [self.zeros(shape, self.tensor(shape)), x], y if floating else self.tensor(shape), schema.AddOptionsT())
        elif floating:
            x = self.op("MUL", [x, self.constant([1], np.float32)], y, schema.MulOptionsT())
        return x if floating else self.converted(x, y)

    def converted(self, x: int, y: int) -> int:
        """``x`` in the type of ``y``: quantized, requantized or as real numbers."""
        if self.file.dtype(y) == np.float32:
            return self.op("DEQUANTIZE", [x], y, schema.DequantizeOptionsT())
        version = 2 if self.file.dtype(y) == np.int16 else None
        return self.op("QUANTIZE", [x], y, schema.QuantizeOptionsT(), version)


def weight_scale(values: Array) -> float:
    """Of a matrix stored as int8, symmetric, with one scale."""
    return max(float(np.abs(values).max()), 1e-6) / 127
