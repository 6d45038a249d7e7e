"""What TFLite Micro runs, operator by operator.

From TFLite Micro's ``micro_mutable_op_resolver.h`` and its kernels as of August 2026 (commit 90b983c of
github.com/tensorflow/tflite-micro).  Its runtime reads no operator versions: what a kernel takes is decided by the types of its tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from edgeprune.errors import ExportError
from edgeprune.tflite.graph import MicroGraph, Operator

_IRREGULAR: Final = {
    "AVERAGE_POOL_2D": "AveragePool2D",
    "BATCH_MATMUL": "BatchMatMul",
    "CONV_2D": "Conv2D",
    "CUMSUM": "CumSum",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2D",
    "L2_POOL_2D": "L2Pool2D",
    "MAX_POOL_2D": "MaxPool2D",
    "PADV2": "PadV2",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "UnidirectionalSequenceLSTM",
}
_REGULAR: Final = (
    "ABS", "ADD", "ADD_N", "ARG_MAX", "ARG_MIN", "ASSIGN_VARIABLE", "BATCH_TO_SPACE_ND", "BROADCAST_ARGS", "BROADCAST_TO", "CALL_ONCE",
    "CAST", "CEIL", "CONCATENATION", "COS", "DEPTH_TO_SPACE", "DEQUANTIZE", "DIV", "DYNAMIC_UPDATE_SLICE", "ELU", "EMBEDDING_LOOKUP",
    "EQUAL", "EXP", "EXPAND_DIMS", "FILL", "FLOOR", "FLOOR_DIV", "FLOOR_MOD", "FULLY_CONNECTED", "GATHER", "GATHER_ND", "GREATER",
    "GREATER_EQUAL", "HARD_SWISH", "IF", "L2_NORMALIZATION", "LEAKY_RELU", "LESS", "LESS_EQUAL", "LOG", "LOGICAL_AND", "LOGICAL_NOT",
    "LOGICAL_OR", "LOGISTIC", "LOG_SOFTMAX", "MAXIMUM", "MEAN", "MINIMUM", "MIRROR_PAD", "MUL", "NEG", "NOT_EQUAL", "PACK", "PAD",
    "PRELU", "QUANTIZE", "READ_VARIABLE", "REDUCE_ALL", "REDUCE_MAX", "REDUCE_MIN", "RELU", "RELU6", "RESHAPE", "RESIZE_BILINEAR",
    "RESIZE_NEAREST_NEIGHBOR", "REVERSE_V2", "ROUND", "RSQRT", "SELECT_V2", "SHAPE", "SIN", "SLICE", "SOFTMAX", "SPACE_TO_BATCH_ND",
    "SPACE_TO_DEPTH", "SPLIT", "SPLIT_V", "SQRT", "SQUARE", "SQUARED_DIFFERENCE", "SQUEEZE", "STRIDED_SLICE", "SUB", "SUM", "SVDF",
    "TANH", "TRANSPOSE", "TRANSPOSE_CONV", "UNPACK", "VAR_HANDLE", "WHILE", "ZEROS_LIKE",
)  # fmt: skip

METHODS: Final = {name: name.title().replace("_", "") for name in _REGULAR} | _IRREGULAR
"""By operator the method of ``MicroMutableOpResolver`` that adds it, without its ``Add``."""

CUSTOM_METHODS: Final = {"CIRCULAR_BUFFER": "CircularBuffer", "TFLite_Detection_PostProcess": "DetectionPostprocess"}

FLOAT_ONLY: Final = frozenset({
    "CEIL", "COS", "EXP", "FLOOR", "FLOOR_DIV", "FLOOR_MOD", "L2_POOL_2D", "LOG", "ROUND", "SIN", "SQRT", "SQUARE",
})  # fmt: skip
"""Operators whose kernels take float32 alone."""

WEIGHTED: Final = frozenset({
    "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "UNIDIRECTIONAL_SEQUENCE_LSTM",
})  # fmt: skip
_PROJECTION: Final = 16  # the place of an LSTM's input
_TYPES: Final = frozenset({"float32", "int8", "int16", "int32", "int64", "int4", "bool", "uint8", "uint32", "resource"})

_REMEDIES: Final = {
    "GELU": "Use nn.ReLU or nn.Hardswish instead.",
    "DENSIFY": "Export it without sparsity: TFLite Micro has no sparse kernels.",
    "POW": "Multiply instead.",
    "TOPK_V2": "Leave it out of the model: the firmware can choose among the outputs.",
    "TILE": "Use BROADCAST_TO (Tensor.expand) instead.",
    "CONV_3D": "Use convolutions over one or two dimensions.",
    "EXP": "Keep exponentials inside a softmax or sigmoid.",
    "UNIDIRECTIONAL_SEQUENCE_RNN": "Export tflite-int8, which has a loop of operators instead.",
    "SQRT": "Fold it into the weights, or use torch.rsqrt, which has an int8 kernel.",
}


SHOWN = 5
"""How many operators one message names."""


@dataclass(frozen=True)
class Finding:
    """An operator that TFLite Micro does not run: its name, its ``node`` and ``place`` in words, ``why``, and what to do."""

    operator: str
    node: int
    place: str
    why: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.place} {self.why}"


def unsupported(graph: MicroGraph) -> list[Finding]:
    """What in the graph TFLite Micro does not run, in the graph's order."""
    return [finding for operator in graph.operators if (finding := _judge(operator)) is not None]


def require_supported(graph: MicroGraph, name: str) -> None:
    """Raise :class:`ExportError` naming every operator of model ``name`` that TFLite Micro does not run, and what to do about it."""
    found = unsupported(graph)
    if found:
        remedies = dict.fromkeys(finding.remedy for finding in found)
        shown = [*map(str, found[:SHOWN]), *([f"and {len(found) - SHOWN} more operators"] if len(found) > SHOWN else [])]
        raise ExportError(f"{name} does not run on TFLite Micro: {'; '.join(shown)}", remedy=" ".join(remedies))


def resolver_methods(operators: Sequence[Operator]) -> list[str]:
    """The calls that register these operators in a ``MicroMutableOpResolver``, each once, sorted."""
    return sorted({f"Add{(CUSTOM_METHODS if operator.custom else METHODS)[operator.name]}" for operator in operators})


def _judge(operator: Operator) -> Finding | None:
    name = operator.name

    def bad(why: str, remedy: str) -> Finding:
        return Finding(name, operator.node, operator.place, why, remedy)

    if name not in (CUSTOM_METHODS if operator.custom else METHODS):
        return bad("is not among its operators", _REMEDIES.get(name, f"Replace {name} in the model by operations that it has."))
    tensors = [tensor for tensor in (*operator.inputs, *operator.outputs) if tensor is not None]
    for tensor in tensors:
        if tensor.sparse:
            return bad("has sparse weights, and its kernels are dense", _REMEDIES["DENSIFY"])
        if tensor.dtype not in _TYPES:
            return bad(f"holds the {tensor.dtype} tensor {tensor.name!r}", "Export the model as full-integer int8.")
        if tensor.dtype == "int4" and not tensor.constant:
            return bad(f"computes with the int4 tensor {tensor.name!r}: only weights may be int4", "Export the activations as int8.")
    first = tensors[0].dtype
    if name in FLOAT_ONLY and first != "float32":
        return bad(f"has a float32 kernel only, and reads {first}", _REMEDIES.get(name, f"Keep {name} float, or replace it in the model."))
    weight = operator.inputs[1] if name in WEIGHTED and len(operator.inputs) > 1 else None
    if weight is not None and first == "float32" and weight.dtype != "float32":
        return bad(f"has {weight.dtype} weights and float32 activations", "Export the model as full-integer int8, not dynamic-range.")
    if name == "UNIDIRECTIONAL_SEQUENCE_LSTM" and operator.inputs[_PROJECTION] is not None:
        return bad("has a projection, and its kernel has none", "Leave proj_size out of nn.LSTM, and put nn.Linear after it.")
    if weight is not None and weight.dtype == "uint8":
        return bad("has uint8 weights, of an older quantization", "Quantize the float model again, to int8.")
    return None
