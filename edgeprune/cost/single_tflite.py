"""A TFLite file that holds one kernel and nothing else, written straight into the flatbuffer (the converter would take seconds)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgeprune.cost.kernels import RECURRENT, KernelSpec, attention_heads, attention_places
from edgeprune.tflite.builder import Builder
from edgeprune.tflite.file import TfliteFile
from edgeprune.tflite.recurrent import Cell, Places, write
from edgeprune.tflite.recurrent.cell import GATES

_OPS = {
    "conv2d": "CONV_2D",
    "depthwise_conv2d": "DEPTHWISE_CONV_2D",
    "transpose_conv2d": "TRANSPOSE_CONV",
    "fully_connected": "FULLY_CONNECTED",
    "add": "ADD",
    "mul": "MUL",
    "mean": "MEAN",
    "max_pool": "MAX_POOL_2D",
    "avg_pool": "AVERAGE_POOL_2D",
    "hard_swish": "HARD_SWISH",
    "sigmoid": "LOGISTIC",
    "concat": "CONCATENATION",
    "pad": "PAD",
}

Ends = tuple[list[int], list[int]]
"""The tensors that are a graph's inputs and outputs."""


def single_tflite(spec: KernelSpec, in_width: int, out_width: int) -> bytes:
    """The kernel ``spec`` from ``in_width`` to ``out_width`` channels as a TFLite model, float32, NHWC, batch 1.

    Kinds without an operator of their own (``copy``) are written as an addition over the same elements: the cost of moving them.
    """
    if spec.kind in RECURRENT:
        return _recurrent(spec, in_width, out_width)
    builder = Builder()
    if spec.kind == "strided_slice":
        spec = replace(spec, kind="depthwise_conv2d")  # as the exporter does
    inputs, outputs = MAKE.get(spec.kind, _elementwise)(builder, spec, in_width, out_width)
    return builder.build(inputs, outputs)


def _convolution(builder: Builder, spec: KernelSpec, in_width: int, out_width: int) -> Ends:
    height, width = spec.rows_in
    x = entry = builder.tensor((1, height, width, in_width))
    same = spec.stride == (1, 1) or not spec.padded
    if not same:  # the converter writes symmetric padding of strided kernels as a PAD of its own
        before = [(window - 1) // 2 for window in spec.window]
        need = [
            max((o - 1) * s + w - i - b, 0)
            for o, s, w, i, b in zip(spec.rows_out, spec.stride, spec.window, spec.rows_in, before, strict=True)
        ]
        pads = np.array([[0, 0], [before[0], need[0]], [before[1], need[1]], [0, 0]], np.int32)
        padded = builder.tensor((1, height + int(pads[1].sum()), width + int(pads[2].sum()), in_width))
        builder.op("PAD", [x, builder.tensor((4, 2), pads)], padded, "PadOptions", schema.PadOptionsT())
        x = padded
    depthwise = spec.kind == "depthwise_conv2d"
    options = schema.DepthwiseConv2DOptionsT() if depthwise else schema.Conv2DOptionsT()
    options.padding = schema.Padding.SAME if same and spec.padded else schema.Padding.VALID
    options.strideH, options.strideW = spec.stride
    options.dilationHFactor = options.dilationWFactor = 1
    options.fusedActivationFunction = schema.ActivationFunctionType.RELU
    shape = (1, *spec.window, out_width) if depthwise else (out_width, *spec.window, in_width // spec.groups)
    if depthwise:
        options.depthMultiplier = 1
    y = builder.tensor((1, *spec.rows_out, out_width))
    name = "DepthwiseConv2DOptions" if depthwise else "Conv2DOptions"
    builder.op(_OPS[spec.kind], [x, builder.weights(*shape), builder.weights(out_width)], y, name, options)
    return [entry], [y]


def _fully_connected(builder: Builder, spec: KernelSpec, in_width: int, out_width: int) -> Ends:
    rows = spec.rows_in[0] * spec.rows_in[1]
    options = schema.FullyConnectedOptionsT()
    x, y = builder.tensor((rows, in_width)), builder.tensor((rows, out_width))
    operands = [x, builder.weights(out_width, in_width), builder.weights(out_width)]
    builder.op("FULLY_CONNECTED", operands, y, "FullyConnectedOptions", options)
    return [x], [y]


def _transposed(builder: Builder, spec: KernelSpec, in_width: int, out_width: int) -> Ends:
    options = schema.TransposeConvOptionsT()
    whole = [(size - 1) * stride + window for size, stride, window in zip(spec.rows_in, spec.stride, spec.window, strict=True)]
    options.padding = schema.Padding.VALID if whole == list(spec.rows_out) else schema.Padding.SAME
    options.strideH, options.strideW = spec.stride
    x, y = builder.tensor((1, *spec.rows_in, in_width)), builder.tensor((1, *spec.rows_out, out_width))
    shape = builder.tensor((4,), np.array([1, *spec.rows_out, out_width], np.int32))
    weights = builder.weights(out_width, *spec.window, in_width)
    builder.op(_OPS[spec.kind], [shape, weights, x], y, "TransposeConvOptions", options)
    return [x], [y]


def _recurrent(spec: KernelSpec, in_width: int, out_width: int) -> bytes:
    """One direction of one recurrent layer, as the exporter writes it."""
    kind = {"rnn": "rnn_tanh"}.get(spec.kind, spec.kind)
    hidden = max(out_width // GATES[kind], 1)
    inputs, rows, builder = max(in_width - hidden, 1), GATES[kind] * hidden, Builder()

    def drawn(*shape: int) -> np.ndarray:
        return 0.1 * builder.random.standard_normal(shape).astype(np.float32)

    cell = Cell(kind, drawn(rows, inputs), drawn(rows, hidden), drawn(rows), drawn(rows))
    steps = spec.rows_out[0] * spec.rows_out[1]
    x, y = builder.tensor((1, steps, inputs)), builder.tensor((1, steps, hidden))
    file = TfliteFile(builder.build([x], [y]))
    write(file, 0, cell, Places(x, y), "layer")
    return file.pack()


def _attention(builder: Builder, spec: KernelSpec, in_width: int, out_width: int) -> Ends:
    """As the exporter writes it: heads apart, scores, their softmax, the sum they weigh, heads together."""
    queries, keys = attention_places(spec)
    heads, size = attention_heads(spec, out_width)
    entries = [builder.tensor((places, heads * size)) for places in (queries, keys, keys)]
    apart = []
    for place, entry in enumerate(entries):
        places = keys if place else queries
        split = builder.move("RESHAPE", entry, (places, heads, size))
        turned = builder.move("TRANSPOSE", split, (heads, places, size), (1, 0, 2))
        if place < 2:
            scaled = builder.tensor((heads, places, size))
            builder.op("MUL", [turned, builder.weights(1)], scaled, "MulOptions", schema.MulOptionsT())
            turned = scaled
        apart.append(turned)
    across = builder.move("TRANSPOSE", apart[1], (heads, size, keys), (0, 2, 1))
    scores, shares, mixed = (builder.tensor((heads, queries, width)) for width in (keys, keys, size))
    builder.op("BATCH_MATMUL", [apart[0], across], scores, "BatchMatMulOptions", schema.BatchMatMulOptionsT())
    softmax = schema.SoftmaxOptionsT()
    softmax.beta = 1.0
    builder.op("SOFTMAX", [scores], shares, "SoftmaxOptions", softmax)
    builder.op("BATCH_MATMUL", [shares, apart[2]], mixed, "BatchMatMulOptions", schema.BatchMatMulOptionsT())
    together = builder.move("TRANSPOSE", mixed, (queries, heads, size), (1, 0, 2))
    return entries, [builder.move("RESHAPE", together, (queries, heads * size))]


def _layer_norm(builder: Builder, spec: KernelSpec, in_width: int, out_width: int) -> Ends:
    """As the exporter writes it: mean, variance, and what is left of the elements."""
    rows = spec.rows_out[0] * spec.rows_out[1]
    whole, each = (1, rows, out_width), (1, rows, 1)
    x, squares, scaled, y = (builder.tensor(whole) for _ in range(4))
    mean, variance, safe, root, shift = (builder.tensor(each) for _ in range(5))
    last, options = builder.tensor((1,), np.array([2], np.int32)), schema.ReducerOptionsT()
    options.keepDims = True
    builder.op("MEAN", [x, last], mean, "ReducerOptions", options)
    builder.op("SQUARED_DIFFERENCE", [x, mean], squares, "SquaredDifferenceOptions", schema.SquaredDifferenceOptionsT())
    builder.op("MEAN", [squares, last], variance, "ReducerOptions", options)
    builder.op("ADD", [variance, builder.tensor((1,), np.array([1e-5], np.float32))], safe, "AddOptions", schema.AddOptionsT())
    builder.op("RSQRT", [safe], root)
    builder.op("MUL", [mean, root], shift, "MulOptions", schema.MulOptionsT())
    builder.op("MUL", [x, root], scaled, "MulOptions", schema.MulOptionsT())
    builder.op("SUB", [scaled, shift], y, "SubOptions", schema.SubOptionsT())
    return [x], [y]


def _elementwise(builder: Builder, spec: KernelSpec, in_width: int, out_width: int) -> Ends:
    x, y = builder.tensor((1, *spec.rows_in, out_width)), builder.tensor((1, *spec.rows_out, out_width))
    kind = spec.kind if spec.kind in _OPS else "add"
    if kind in ("add", "mul", "concat"):
        return _two_operands(builder, kind, spec, out_width)
    if kind in ("hard_swish", "sigmoid"):
        builder.op(_OPS[kind], [x], y)
    elif kind == "mean":
        options = schema.ReducerOptionsT()
        options.keepDims = True
        y = builder.tensor((1, 1, 1, out_width))
        builder.op("MEAN", [x, builder.tensor((2,), np.array([1, 2], np.int32))], y, "ReducerOptions", options)
    elif kind == "pad":
        grow = [after - before for before, after in zip(spec.rows_in, spec.rows_out, strict=True)]
        pads = np.array([[0, 0], [0, max(grow[0], 0)], [0, max(grow[1], 0)], [0, 0]], np.int32)
        builder.op("PAD", [x, builder.tensor((4, 2), pads)], y, "PadOptions", schema.PadOptionsT())
    else:
        pool = schema.Pool2DOptionsT()
        pool.padding = schema.Padding.VALID if _valid(spec) else schema.Padding.SAME
        (pool.filterHeight, pool.filterWidth), (pool.strideH, pool.strideW) = spec.window, spec.stride
        builder.op(_OPS[kind], [x], y, "Pool2DOptions", pool)
    return [x], [y]


def _two_operands(builder: Builder, kind: str, spec: KernelSpec, out_width: int) -> Ends:
    y = builder.tensor((1, *spec.rows_out, out_width))
    if kind == "concat":
        halves = (max(out_width // 2, 1), max(out_width - out_width // 2, 1))
        operands = [builder.tensor((1, *spec.rows_out, half)) for half in halves]
        y = builder.tensor((1, *spec.rows_out, sum(halves)))
        options = schema.ConcatenationOptionsT()
        options.axis = 3
        builder.op("CONCATENATION", operands, y, "ConcatenationOptions", options)
        return operands, [y]
    operands = [builder.tensor((1, *spec.rows_out, out_width)) for _ in range(2)]
    made = schema.AddOptionsT() if kind == "add" else schema.MulOptionsT()
    builder.op(_OPS[kind], operands, y, "AddOptions" if kind == "add" else "MulOptions", made)
    return operands, [y]


def _valid(spec: KernelSpec) -> bool:
    return all((i - w) // s + 1 == o for i, w, s, o in zip(spec.rows_in, spec.window, spec.stride, spec.rows_out, strict=True))


def _launches(builder: Builder, spec: KernelSpec, in_width: int, out_width: int) -> Ends:
    """``out_width`` operators of one number each, one after another."""
    entry = last = builder.tensor((1, in_width))
    for _ in range(out_width):
        options = schema.SoftmaxOptionsT()
        options.beta, result = 1.0, builder.tensor((1, in_width))
        builder.op("SOFTMAX", [last], result, "SoftmaxOptions", options)
        last = result
    return [entry], [last]


MAKE = {
    "launches": _launches,
    "conv2d": _convolution,
    "depthwise_conv2d": _convolution,
    "transpose_conv2d": _transposed,
    "fully_connected": _fully_connected,
    "attention": _attention,
    "attention_dimensions": _attention,
    "layer_norm": _layer_norm,
}
