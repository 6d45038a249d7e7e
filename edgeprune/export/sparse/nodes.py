"""A TFLite file as the nodes XNNPACK makes of it, and which of them it can run channel by channel (in NCHW layout).

The conditions are those of ``xnn_check_nchw_compatibility`` and of the fusing of PAD, in XNNPACK's ``src/subgraph.c`` (commit 75db3c09,
August 2026), and of TFLite's delegate (``tflite/delegates/xnnpack/xnnpack_delegate.cc`` of LiteRT, commit f6745779).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntFlag
from typing import Any, Final

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgeprune.tflite.file import TfliteFile


class Layout(IntFlag):
    """What a node can do: run inside the sparse part, be its start (NHWC in, NCHW out), be its end (NCHW in, NHWC out)."""

    NONE = 0
    INSIDE = 1
    START = 2
    END = 4


@dataclass(frozen=True)
class Verdict:
    """``layout`` of a node; where it is none, ``why``, and what may be done (``remedy``)."""

    layout: Layout
    why: str = ""
    remedy: str = ""


@dataclass
class Node:
    """One node.  ``index``: of its operator in the file. ``inputs``: what it reads that is computed; ``output``: what it makes.

    ``weights``: the tensor of a 1x1 convolution's or fully-connected layer's weights.
    """

    index: int
    operation: str
    inputs: list[int]
    output: int
    verdict: Verdict
    weights: int | None = None

    @property
    def is_pointwise(self) -> bool:
        """Whether it is a 1x1 convolution: what sparse kernels speed up."""
        return self.operation == "CONV_2D" and self.weights is not None


@dataclass(frozen=True)
class _Window:
    """A convolution's window after the fusing of PAD: (H, W) of each but ``padding``: top, bottom, left, right."""

    size: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int, int, int] | None  # None: TensorFlow's SAME under a stride, which depends on the input's size


APART: Final = "/apart"
"""How the name ends of a RESHAPE's output that changes nothing and keeps what follows out of the sparse part."""

_UNARY: Final = frozenset({
    "ABS", "CEIL", "COS", "ELU", "EXP", "FLOOR", "GELU", "HARD_SWISH", "LEAKY_RELU", "LOGISTIC", "LOG", "NEG", "RELU", "RELU6",
    "RELU_N1_TO_1", "ROUND", "RSQRT", "SIN", "SQRT", "SQUARE", "TANH",
})  # fmt: skip
_STEM: Final = "Begin with a 3x3 convolution of stride 2 and padding 1 on the image's 3 channels."


def nodes_of(file: TfliteFile) -> list[Node]:
    """The nodes, in the order they run; no node for a DENSIFY, nor for a PAD that a convolution takes in."""
    readers = Counter(int(tensor) for operator in file.operators for tensor in operator.inputs)
    readers.update(int(tensor) for tensor in file.graph.outputs)
    pads = _spatial_pads(file, readers)
    densified = {int(operator.outputs[0]) for operator in file.operators if file.operation(operator) == "DENSIFY"}
    found = []
    fused = set()
    for index, operator in enumerate(file.operators):
        operation = file.operation(operator)
        pad = pads.get(int(operator.inputs[0])) if len(operator.inputs) else None
        takes_pad = pad is not None and operation in _CONVOLUTIONS and _window(operator, file, operation, (0, 0, 0, 0)).padding is not None
        inputs = [int(read) for read in operator.inputs if read >= 0 and read not in densified and not file.is_constant(int(read))]
        if takes_pad and pad is not None:
            fused.add(pad.place)
            inputs[0] = pad.source
        verdict = _judge(file, operator, operation, pad.amounts if takes_pad and pad is not None else (0, 0, 0, 0))
        if operation != "DENSIFY":
            found.append(Node(index, operation, inputs, int(operator.outputs[0]), verdict, _weights(file, operator, operation)))
    return [node for node in found if node.index not in fused]


_CONVOLUTIONS: Final = {"CONV_2D", "DEPTHWISE_CONV_2D"}


@dataclass(frozen=True)
class _Pad:
    place: int
    source: int
    amounts: tuple[int, int, int, int] = field(default=(0, 0, 0, 0))  # top, bottom, left, right


def _spatial_pads(file: TfliteFile, readers: Counter[int]) -> dict[int, _Pad]:
    """By output, each PAD of height and width alone that one operator reads."""
    found = {}
    for place, operator in enumerate(file.operators):
        if file.operation(operator) != "PAD" or readers[int(operator.outputs[0])] != 1:
            continue
        amounts = file.constant(int(operator.inputs[1]))
        if amounts is not None and amounts.shape == (4, 2) and not amounts[[0, 3]].any():
            top, bottom, left, right = (int(value) for value in amounts[1:3].ravel())
            found[int(operator.outputs[0])] = _Pad(place, int(operator.inputs[0]), (top, bottom, left, right))
    return found


def _window(operator: Any, file: TfliteFile, operation: str, pad: tuple[int, int, int, int]) -> _Window:
    options = operator.builtinOptions
    height, width = file.shape(int(operator.inputs[1]))[1:3]
    stride, dilation = (options.strideH, options.strideW), (options.dilationHFactor, options.dilationWFactor)
    padding: tuple[int, int, int, int] | None = pad
    if options.padding == schema.Padding.SAME:
        rows, columns = (height - 1) * dilation[0], (width - 1) * dilation[1]
        top, bottom, left, right = pad
        whole = (top + rows // 2, bottom + rows - rows // 2, left + columns // 2, right + columns - columns // 2)
        padding = whole if stride == (1, 1) else None
    return _Window((height, width), stride, dilation, padding)


def _weights(file: TfliteFile, operator: Any, operation: str) -> int | None:
    if operation == "FULLY_CONNECTED" or (operation == "CONV_2D" and file.shape(int(operator.inputs[1]))[1:3] == (1, 1)):
        return int(operator.inputs[1])
    return None


def _judge(file: TfliteFile, operator: Any, operation: str, pad: tuple[int, int, int, int]) -> Verdict:
    count = 3 if operation in _CONVOLUTIONS or operation == "FULLY_CONNECTED" else 1  # the rest are axes and shapes
    tensors = [int(tensor) for tensor in (*operator.inputs[:count], *operator.outputs) if tensor >= 0]
    if not all(file.is_float(tensor) for tensor in tensors):
        return Verdict(
            Layout.NONE,
            "its values or weights are not floating-point numbers",
            "Sparse kernels are for float models: do not quantize this one.",
        )
    if operation in _CONVOLUTIONS:
        window = _window(operator, file, operation, pad)
        return (_conv2d if operation == "CONV_2D" else _depthwise)(file, operator, window)
    if operation in _RULES:
        return _RULES[operation](file, operator)
    if operation in _UNARY:
        return _in_four_dimensions(file, operator, Layout.INSIDE)
    if operation == "RESHAPE" and file.name(int(operator.outputs[0])).endswith(APART):
        return Verdict(
            Layout.NONE, "it separates values that XNNPACK would misread", "Replace the operator named after it by one that runs sparse."
        )
    return Verdict(Layout.NONE, "XNNPACK has no sparse form of it", _remedy_for(operation))


def _remedy_for(operation: str) -> str:
    if operation in ("MAX_POOL_2D", "AVERAGE_POOL_2D"):
        return "Use a depthwise 3x3 convolution of stride 2 instead of the pooling."
    return "Move it behind the global average, or replace it by convolutions, additions, multiplications or activations."


def _conv2d(file: TfliteFile, operator: Any, window: _Window) -> Verdict:
    channels, groups_of = file.shape(int(operator.inputs[0]))[3], file.shape(int(operator.inputs[1]))[3]
    if channels != groups_of:
        return Verdict(Layout.NONE, f"it has {channels // groups_of} groups", "Use one group, or as many as channels (depthwise).")
    if window.dilation != (1, 1):
        return Verdict(Layout.NONE, "it is dilated", "Use a dilation of 1.")
    if window.size == (1, 1):
        if window.stride != (1, 1) or window.padding != (0, 0, 0, 0):
            return Verdict(
                Layout.NONE, f"it is 1x1 with stride {_by(window.stride)}{_padded(window)}", "Put the stride into a depthwise convolution."
            )
        return Verdict(Layout.INSIDE)
    if window.size != (3, 3):
        return Verdict(Layout.NONE, f"it is {_by(window.size)}: only 1x1 is sparse", "Use 1x1 and depthwise convolutions instead.")
    if channels != 3:
        return Verdict(Layout.NONE, f"it is 3x3 on {channels} channels: only 1x1 is sparse", "Use 1x1 and depthwise convolutions instead.")
    if window.stride != (2, 2):
        return Verdict(Layout.NONE, f"the first convolution has stride {_by(window.stride)}, not 2", _STEM)
    if window.padding != (1, 1, 1, 1):
        return Verdict(Layout.NONE, f"the first convolution has {_padding_text(window)}, not 1 on each side", _STEM)
    return Verdict(Layout.START)


def _depthwise(file: TfliteFile, operator: Any, window: _Window) -> Verdict:
    if window.dilation != (1, 1) or operator.builtinOptions.depthMultiplier > 1:
        return Verdict(Layout.NONE, "it is dilated, or makes several channels from one", "Use a dilation and a depth multiplier of 1.")
    if window.size not in ((3, 3), (5, 5)) or window.stride not in ((1, 1), (2, 2)):
        return Verdict(
            Layout.NONE, f"it is depthwise {_by(window.size)} with stride {_by(window.stride)}", "Use 3x3 or 5x5, with a stride of 1 or 2."
        )
    half = window.size[0] // 2
    if window.padding != (half,) * 4:
        return Verdict(Layout.NONE, f"it is depthwise with {_padding_text(window)}, not {half} on each side", f"Use a padding of {half}.")
    return Verdict(Layout.INSIDE)


def _padding_text(window: _Window) -> str:
    if window.padding is None:
        return "TensorFlow's SAME padding under a stride"
    same = len(set(window.padding)) == 1
    return f"a padding of {window.padding[0]}" if same else "a padding of {}, {}, {}, {} (top, bottom, left, right)".format(*window.padding)


def _padded(window: _Window) -> str:
    return "" if window.padding in ((0, 0, 0, 0), None) else f" and {_padding_text(window)}"


def _by(pair: tuple[int, int]) -> str:
    return f"{pair[0]}x{pair[1]}"


def _binary(file: TfliteFile, operator: Any) -> Verdict:
    """A constant operand must be one value or one a channel; of a second one, XNNPACK looks at the first's shape instead."""
    first, second = (int(tensor) for tensor in operator.inputs)
    if len(file.shape(first)) != 4 or len(file.shape(second)) != 4:
        return Verdict(Layout.NONE, "its operands do not have four dimensions each", "Give both operands four dimensions.")
    for tensor in (first, second):
        if file.is_constant(tensor) and sum(size != 1 for size in file.shape(first)) > 1:
            return Verdict(
                Layout.NONE, "a constant operand is neither first nor one value per channel", "Export tflite-sparse, which puts it first."
            )
    return Verdict(Layout.INSIDE)


def _in_four_dimensions(file: TfliteFile, operator: Any, layout: Layout) -> Verdict:
    if len(file.shape(int(operator.inputs[0]))) == 4:
        return Verdict(layout)
    return Verdict(Layout.NONE, "its input does not have four dimensions", "Put it behind the global average.")


def _linear(file: TfliteFile, operator: Any) -> Verdict:
    """Without ``keep_num_dims`` the delegate puts a reshape of its own before it."""
    if operator.builtinOptions.keepNumDims:
        return Verdict(Layout.INSIDE)
    return Verdict(Layout.NONE, "its input is reshaped before it", "Move it behind the global average.")


def _resize(file: TfliteFile, operator: Any) -> Verdict:
    if np.all(np.array(file.shape(int(operator.inputs[0]))[1:3]) > 1):
        return Verdict(Layout.INSIDE)
    return Verdict(Layout.NONE, "it resizes a single pixel", "Resize larger maps.")


_RULES: Final[dict[str, Callable[[TfliteFile, Any], Verdict]]] = {
    "ADD": _binary,
    "MUL": _binary,
    "MEAN": lambda file, operator: _in_four_dimensions(file, operator, Layout.INSIDE | Layout.END),
    "SUM": lambda file, operator: _in_four_dimensions(file, operator, Layout.INSIDE | Layout.END),
    "FULLY_CONNECTED": _linear,
    "DEPTH_TO_SPACE": lambda file, operator: Verdict(Layout.END),
    "RESIZE_BILINEAR": _resize,
}
