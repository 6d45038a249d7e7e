"""TFLite files in the style of MobileNetV2, written in milliseconds: whole, or with one thing that XNNPACK's sparse part does not bear."""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgeprune.export.sparse.format import sparse_tflite
from edgeprune.tflite.builder import Builder

SIZE = 48
CLASSES = 10


class Net(Builder):
    """Adds layers to a graph on an image of (1, SIZE, SIZE, 3); ``top`` is the tensor they are added to."""

    def __init__(self, sparsity: float = 0.85) -> None:
        super().__init__()
        self.sparsity = sparsity
        self.input = self.top = self.tensor((1, SIZE, SIZE, 3))

    def shape(self) -> tuple[int, ...]:
        return tuple(int(size) for size in self.tensors[self.top].shape)

    def conv(self, channels: int, size: int = 1, stride: int = 1, pad: int = 0, relu: bool = True, sparse: bool = True) -> Net:
        """A convolution whose padding is a PAD of its own; a 1x1 one loses its smallest weights."""
        self._pad(pad)
        kernel = self._random(channels, size, size, self.shape()[3])
        if size == 1 and sparse:
            kernel[np.abs(kernel) < np.quantile(np.abs(kernel), self.sparsity)] = 0.0
        return self._windowed("CONV_2D", "Conv2DOptions", schema.Conv2DOptionsT(), kernel, channels, stride, relu)

    def depthwise(self, stride: int = 1, size: int = 3, pad: int | None = None) -> Net:
        self._pad(size // 2 if pad is None else pad)
        options = schema.DepthwiseConv2DOptionsT()
        options.depthMultiplier = 1
        channels = self.shape()[3]
        kernel = self._random(1, size, size, channels)
        return self._windowed("DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions", options, kernel, channels, stride, True)

    def block(self, channels: int, stride: int, pad: int | None = None) -> Net:
        """An inverted residual block of expansion 4."""
        source, width = self.top, self.shape()[3]
        self.conv(4 * width).depthwise(stride, pad=pad).conv(channels, relu=False)
        if stride == 1 and width == channels:
            self.add(source)
        return self

    def add(self, other: int) -> Net:
        return self._new("ADD", self.shape(), [self.top, other], "AddOptions", schema.AddOptionsT())

    def times_constant(self) -> Net:
        channels = self.shape()[3]
        factors = self.tensor((channels,), np.linspace(0.5, 1.5, channels, dtype=np.float32))
        return self._new("MUL", self.shape(), [self.top, factors], "MulOptions", schema.MulOptionsT())

    def max_pool(self) -> Net:
        options = schema.Pool2DOptionsT()
        options.padding = schema.Padding.VALID
        options.filterHeight = options.filterWidth = options.strideH = options.strideW = 2
        _, height, width, channels = self.shape()
        return self._new("MAX_POOL_2D", (1, height // 2, width // 2, channels), [self.top], "Pool2DOptions", options)

    def average_pool(self) -> Net:
        """Over all of height and width."""
        options = schema.Pool2DOptionsT()
        options.padding = schema.Padding.VALID
        _, options.filterHeight, options.filterWidth, channels = self.shape()
        options.strideH = options.strideW = 1
        return self._new("AVERAGE_POOL_2D", (1, 1, 1, channels), [self.top], "Pool2DOptions", options)

    def mean(self, keep: bool = False) -> Net:
        options = schema.ReducerOptionsT()
        options.keepDims = keep
        axes, channels = self.tensor((2,), np.array([1, 2], np.int32)), self.shape()[3]
        return self._new("MEAN", (1, 1, 1, channels) if keep else (1, channels), [self.top, axes], "ReducerOptions", options)

    def flatten(self) -> Net:
        size = int(np.prod(self.shape()))
        target = self.tensor((2,), np.array([1, size], np.int32))
        return self._new("RESHAPE", (1, size), [self.top, target], "ReshapeOptions", schema.ReshapeOptionsT())

    def linear(self, classes: int = CLASSES, keep: bool = True) -> Net:
        """``keep``: as many dimensions as the input, as the converter writes it."""
        weights = self._constant(self._random(classes, self.shape()[-1]))
        bias = self._constant(np.zeros(classes, np.float32))
        options = schema.FullyConnectedOptionsT()
        options.keepNumDims = keep
        return self._new("FULLY_CONNECTED", (1, classes), [self.top, weights, bias], "FullyConnectedOptions", options)

    def done(self) -> bytes:
        """The dense file."""
        return self.build([self.input], [self.top])

    def _pad(self, pad: int) -> None:
        if pad:
            _, height, width, channels = self.shape()
            pads = self.tensor((4, 2), np.array([[0, 0], [pad, pad], [pad, pad], [0, 0]], np.int32))
            self._new("PAD", (1, height + 2 * pad, width + 2 * pad, channels), [self.top, pads], "PadOptions", schema.PadOptionsT())

    def _random(self, *shape: int) -> np.ndarray:
        fan_in = np.prod(shape[1:]) if shape[0] > 1 else np.prod(shape[1:3])
        return self.random.standard_normal(shape).astype(np.float32) * np.float32(2.0 / np.sqrt(fan_in))

    def _constant(self, values: np.ndarray) -> int:
        return self.tensor(values.shape, values)

    def _windowed(self, name: str, kind: str, options: Any, kernel: np.ndarray, channels: int, stride: int, relu: bool) -> Net:
        _, height, width, _ = self.shape()
        options.padding, options.strideH, options.strideW = schema.Padding.VALID, stride, stride
        options.dilationHFactor = options.dilationWFactor = 1
        options.fusedActivationFunction = schema.ActivationFunctionType.RELU6 if relu else schema.ActivationFunctionType.NONE
        rows, columns = ((extent - kernel.shape[1]) // stride + 1 for extent in (height, width))
        bias = self._constant(self._random(1, channels).ravel() * np.float32(0.1))
        return self._new(name, (1, rows, columns, channels), [self.top, self._constant(kernel), bias], kind, options)

    def _new(self, name: str, shape: tuple[int, ...], inputs: list[int], kind: str, options: Any) -> Net:
        output = self.tensor(shape)
        self.op(name, inputs, output, kind, options)
        self.top = output
        return self


def body(net: Net, stem: int = 2, pad: int = 1, depthwise_pad: int | None = None) -> Net:
    """The first convolution and four blocks."""
    net.conv(16, 3, stem, pad)
    net.block(24, 2, depthwise_pad).block(24, 1).block(48, 2).block(48, 1)
    return net.conv(256)


def variants() -> dict[str, bytes]:
    """Dense files by what is particular to them; all but ``whole`` have one thing that matters to XNNPACK."""
    pooled = Net().conv(16, 3, 2, 1).block(24, 2).block(24, 1).max_pool().block(48, 1).block(48, 1).conv(256).mean().linear()
    return {
        "whole": body(Net()).mean(keep=True).flatten().linear(1000).done(),
        "fully-connected after the mean": body(Net()).mean().linear(1000).done(),
        "fully-connected that reshapes": body(Net()).mean().linear(1000, keep=False).done(),
        "stride-1 stem": body(Net(), stem=1).mean(keep=True).flatten().linear().done(),
        "no padding of the stem": body(Net(), pad=0).mean(keep=True).flatten().linear().done(),
        "no padding of a depthwise convolution": body(Net(), depthwise_pad=0).mean(keep=True).flatten().linear().done(),
        "too dense": body(Net(0.6)).mean(keep=True).flatten().linear().done(),
        "max pooling": pooled.done(),
        "1x1 convolution after the mean": body(Net()).mean(keep=True).conv(CLASSES, relu=False).flatten().done(),
        "average pooling": body(Net()).average_pool().flatten().linear().done(),
        "no mean": body(Net()).conv(8).done(),
        "constant factor": body(Net()).times_constant().mean().linear().done(),
    }


def stored(dense: bytes) -> bytes:
    """The dense file with its weights stored sparse and nothing else changed."""
    return sparse_tflite(dense, arrange=False)
