"""What XNNPACK's sparse 1x1 convolutions cost on a device, from files that hold little else.

A sparse kernel cannot be measured alone: XNNPACK takes it only between a strided first convolution and a mean. A chain of five sparse
convolutions less a chain of one leaves four. Its time is near linear in the weights that are not zero and in the outputs written, each
times the pixels: the kernel runs over an output channel's weights and adds each one's row of pixels (Elsen et al., "Fast Sparse
ConvNets", 2020, section 3), so that a dozen measurements determine a device's three numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from scipy.optimize import nnls

from edgeprune.cost.kernels import Kernel, KernelSpec
from edgeprune.cost.latency import KernelTimes
from edgeprune.engines import FORMATS, TFLITE
from edgeprune.tflite.builder import Builder
from edgeprune.tflite.sparsity import without_zeros

PAIRS: Final = 2
"""Pairs of convolutions, there and back, that the longer chain has on top of the shorter one's single convolution."""

SHARES: Final = (0.7, 0.9)
"""Shares of zeros that are measured."""


@dataclass(frozen=True)
class SparsePoint:
    """A 1x1 convolution over ``rows`` (H, W) from ``in_width`` to ``out_width`` channels; the share ``zeros`` of its weights is zero."""

    rows: tuple[int, int]
    in_width: int
    out_width: int
    zeros: float

    @property
    def key(self) -> str:
        """The point as text: the key of tables."""
        return f"sparse-{self.rows[0]}x{self.rows[1]}-{self.in_width}-{self.out_width}-z{self.zeros:g}"

    def files(self) -> dict[str, bytes]:
        """The two chains, by name."""
        return {self._file(pairs): sparse_chain(self, pairs) for pairs in (0, PAIRS)}

    def _file(self, pairs: int) -> str:
        return f"{self.key}-{pairs}{FORMATS[TFLITE].suffix}"

    def milliseconds(self, times: Mapping[str, float]) -> float:
        """One convolution's time, from those of both chains by name; at least zero."""
        return max(times[self._file(PAIRS)] - times[self._file(0)], 0.0) / (2 * PAIRS)


def is_pointwise(spec: KernelSpec) -> bool:
    """Whether a kernel is a 1x1 convolution that can be sparse."""
    return spec.kind == "conv2d" and spec.window == (1, 1) and spec.stride == (1, 1) and spec.groups == 1


def sparse_points(kernels: Iterable[Kernel], widths: Mapping[str, int]) -> list[SparsePoint]:
    """What to measure for a model: over each of its sizes of map the convolution with the most weights, at both shares of zeros."""
    largest: dict[tuple[int, int], tuple[int, int]] = {}
    for kernel in kernels:
        if is_pointwise(kernel.spec):
            shape = (round(kernel.in_width.at(widths)), round(kernel.out_width.at(widths)))
            if math.prod(shape) > math.prod(largest.get(kernel.spec.rows_out, (0, 0))):
                largest[kernel.spec.rows_out] = shape
    return [SparsePoint(rows, in_width, out_width, zeros) for rows, (in_width, out_width) in largest.items() for zeros in SHARES]


@dataclass(frozen=True)
class SparseCost:
    """``pixels * (per_weight_ms * weights left + per_output_ms * output channels) + each_ms``, in milliseconds."""

    per_weight_ms: float
    per_output_ms: float
    each_ms: float

    @classmethod
    def fit(cls, measured: Sequence[tuple[SparsePoint, float]]) -> SparseCost:
        """Non-negative least squares of relative errors over (point, milliseconds); points of no measurable time are left out."""
        used = [(point, time) for point, time in measured if time > 0]
        design = np.array([_terms(point.rows, point.in_width, point.out_width, point.zeros) for point, _ in used])
        solution, _ = nnls(design / np.array([[time] for _, time in used]), np.ones(len(used)))
        return cls(*(float(value) for value in solution))

    def milliseconds(self, rows: tuple[int, int], in_width: float, out_width: float, zeros: float) -> float:
        """One convolution's time."""
        return float(np.dot(_terms(rows, in_width, out_width, zeros), (self.per_weight_ms, self.per_output_ms, self.each_ms)))


@dataclass
class SparseTimes:
    """Kernel times of a model whose 1x1 convolutions have the share ``zeros`` of zeros; other kernels as ``dense`` says."""

    dense: KernelTimes
    cost: SparseCost
    zeros: float
    measured: bool = True

    @property
    def call_ms(self) -> float:
        """Milliseconds of one call of the runtime, whatever it computes."""
        return self.dense.call_ms

    def milliseconds(self, kernel: Kernel, in_width: float, out_width: float) -> float:
        """Time of ``kernel`` at those widths, in milliseconds."""
        if is_pointwise(kernel.spec):
            return self.cost.milliseconds(kernel.spec.rows_out, in_width, out_width, self.zeros)
        return self.dense.milliseconds(kernel, in_width, out_width)


def _terms(rows: tuple[int, int], in_width: float, out_width: float, zeros: float) -> tuple[float, float, float]:
    pixels = math.prod(rows)
    return pixels * in_width * out_width * (1.0 - zeros), pixels * out_width, 1.0


def sparse_chain(point: SparsePoint, pairs: int) -> bytes:
    """A 3x3 stride-2 convolution on an image, a sparse convolution, ``pairs`` more back and forth, and a mean: float32, NHWC, batch 1."""
    builder = Builder()
    height, width = point.rows
    entry = builder.tensor((1, 2 * height, 2 * width, 3))
    pads = builder.tensor((4, 2), np.array([[0, 0], [1, 1], [1, 1], [0, 0]], np.int32))
    padded = builder.tensor((1, 2 * height + 2, 2 * width + 2, 3))
    builder.op("PAD", [entry, pads], padded, "PadOptions", schema.PadOptionsT())
    top = _convolution(builder, padded, builder.weights(point.in_width, 3, 3, 3), point.rows, point.in_width, 2)
    for shape in [(point.out_width, point.in_width), *[(point.in_width, point.out_width), (point.out_width, point.in_width)] * pairs]:
        top = _convolution(builder, top, _sparse_weights(builder, shape, point.zeros), point.rows, shape[0], 1)
    mean = builder.tensor((1, 1, 1, point.out_width))
    options = schema.ReducerOptionsT()
    options.keepDims = True
    builder.op("MEAN", [top, builder.tensor((2,), np.array([1, 2], np.int32))], mean, "ReducerOptions", options)
    return builder.build([entry], [mean])


def _convolution(builder: Builder, source: int, weights: int, rows: tuple[int, int], channels: int, stride: int) -> int:
    options = schema.Conv2DOptionsT()
    options.padding, options.strideH, options.strideW = schema.Padding.VALID, stride, stride
    options.dilationHFactor = options.dilationWFactor = 1
    options.fusedActivationFunction = schema.ActivationFunctionType.RELU
    output = builder.tensor((1, *rows, channels))
    builder.op("CONV_2D", [source, weights, builder.weights(channels)], output, "Conv2DOptions", options)
    return output


def _sparse_weights(builder: Builder, shape: tuple[int, int], zeros: float) -> int:
    """Random weights behind a DENSIFY; exactly the share ``zeros`` of them is zero."""
    values: np.ndarray[Any, Any] = builder.random.standard_normal(shape).astype(np.float32) * 0.1
    values.flat[builder.random.permutation(values.size)[: round(zeros * values.size)]] = 0.0
    kept, sparsity = without_zeros(values.reshape(shape[0], 1, 1, shape[1]))
    stored, dense = builder.tensor((shape[0], 1, 1, shape[1]), kept), builder.tensor((shape[0], 1, 1, shape[1]))
    builder.tensors[stored].sparsity = sparsity
    builder.op("DENSIFY", [stored], dense, "DensifyOptions", schema.DensifyOptionsT())
    return dense
