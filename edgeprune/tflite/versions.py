"""Whether a device's TFLite is new enough for a file, checked before the file is sent.

Every operator of a TFLite file has a version, and a runtime refuses the versions that are newer than itself, or, worse, computes an old
kernel's result.  The table says in which TensorFlow release each version first shipped, from TensorFlow's own
(tensorflow/lite/tools/versioning/runtime_version.cc, to release 2.13); what came with 2.14 is what tflite-runtime 2.14.0 finds when it is
asked for every operator and version.  Versions do not say everything: of a fully-connected layer with a scale for each channel,
tflite-runtime computes nonsense without a word, up to 2.9.1 with int8 inputs (zeros) and up to 2.14 with float ones, and of an embedding
with a scale for each row up to 2.14; it has no int8 division or square root, nor transposed convolutions with int8
weights and float inputs, of any version.  Measured on releases from 2.7.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from packaging.version import Version

from edgeprune.errors import InputError, NoRuntimeError

_NEWER = Version("2.15")
"""The least release that may have what the table does not know."""

_FLEX = "Flex"
"""How the names of TensorFlow's own operators begin, which a delegate runs that no package for devices holds."""

_CUSTOM = frozenset({"AudioSpectrogram", "Mfcc", "NumericVerify", "TFLite_Detection_PostProcess"})
"""Custom operators that every release has (tensorflow/lite/core/kernels/register.cc)."""

_FIRST_LITERT = Version("2.17")
"""ai-edge-litert 1.0 continued TensorFlow Lite 2.17; all its releases are newer than everything in the table."""

T = TypeVar("T")

_PER_CHANNEL_INT8, _PER_CHANNEL_FLOAT = Version("2.10"), Version("2.15")
"""The releases whose kernels use a scale for each channel, by the type of what they compute with."""

# by operator: the releases of its versions 1, 2, 3, ...
_RELEASES = {
    "ABS": "1.13 2.4 2.5 2.6 2.12",
    "ADD": "1.5 1.14 2.4 2.6 2.14",
    "ADD_N": "1.14",
    "ARG_MAX": "1.9 1.14 2.9",
    "ARG_MIN": "1.9 1.14 2.9",
    "ASSIGN_VARIABLE": "2.6",
    "ATAN2": "2.10",
    "AVERAGE_POOL_2D": "1.5 1.14 2.3",
    "BATCH_MATMUL": "2.3 2.3 2.4 2.5",
    "BATCH_TO_SPACE_ND": "1.6 1.14 2.3 2.14",
    "BIDIRECTIONAL_SEQUENCE_LSTM": "1.14 1.14 1.14",
    "BIDIRECTIONAL_SEQUENCE_RNN": "1.14 1.14 2.3",
    "BITCAST": "2.14",
    "BITWISE_XOR": "2.14",
    "BROADCAST_ARGS": "2.6",
    "BROADCAST_TO": "2.5 2.5 2.5",
    "BUCKETIZE": "2.8",
    "CALL_ONCE": "2.5",
    "CAST": "1.5 2.7 2.8 2.9 2.12",
    "CEIL": "1.14",
    "COMPLEX_ABS": "2.5",
    "CONCATENATION": "1.5 1.14 2.3 2.14",
    "CONV_2D": "1.5 1.14 1.14 2.3 2.4 2.9 2.11",
    "CONV_3D": "2.5",
    "CONV_3D_TRANSPOSE": "2.6",
    "COS": "1.14",
    "CUMSUM": "2.4",
    "DENSIFY": "2.2",
    "DEPTHWISE_CONV_2D": "1.5 1.12 1.14 2.2 2.3 2.3 2.11",
    "DEPTH_TO_SPACE": "2.1 2.5",
    "DEQUANTIZE": "1.13 1.14 1.15 2.2 2.7",
    "DIV": "1.6 2.3",
    "DYNAMIC_UPDATE_SLICE": "2.9",
    "ELU": "1.14",
    "EMBEDDING_LOOKUP": "1.13 1.14 1.14",
    "EMBEDDING_LOOKUP_SPARSE": "1.5",
    "EQUAL": "1.14 1.14 2.3 2.14",
    "EXP": "1.7 2.14",
    "EXPAND_DIMS": "1.10",
    "FAKE_QUANT": "1.5 1.10",
    "FILL": "1.13 2.3 2.5 2.12",
    "FLOOR": "1.9",
    "FLOOR_DIV": "1.14 1.14 2.14",
    "FLOOR_MOD": "1.13 2.14",
    "FULLY_CONNECTED": "1.5 1.10 1.14 1.14 2.0 2.1 2.3 2.3 2.3 2.11",
    "GATHER": "1.6 1.14 1.15 2.4 2.5 2.14",
    "GATHER_ND": "1.14 2.3 2.5 2.14",
    "GELU": "2.9 2.9",
    "GREATER": "1.14 1.14",
    "GREATER_EQUAL": "1.14 1.14 2.14",
    "HARD_SWISH": "1.15",
    "HASHTABLE": "2.5",
    "HASHTABLE_FIND": "2.5",
    "HASHTABLE_IMPORT": "2.5",
    "HASHTABLE_LOOKUP": "1.5",
    "HASHTABLE_SIZE": "2.5",
    "IF": "1.15",
    "IMAG": "2.5",
    "L2_NORMALIZATION": "1.5 1.14",
    "L2_POOL_2D": "1.5",
    "LEAKY_RELU": "1.13 2.3",
    "LESS": "1.14 1.14 2.14",
    "LESS_EQUAL": "1.14 1.14",
    "LOCAL_RESPONSE_NORMALIZATION": "1.5",
    "LOG": "1.14",
    "LOGICAL_AND": "1.11",
    "LOGICAL_NOT": "1.11",
    "LOGICAL_OR": "1.11",
    "LOGISTIC": "1.14 1.14 2.3",
    "LOG_SOFTMAX": "1.14 1.14",
    "LSH_PROJECTION": "1.5",
    "LSTM": "1.7 1.10 1.14 2.3",
    "MATRIX_DIAG": "1.14",
    "MATRIX_SET_DIAG": "1.14",
    "MAXIMUM": "1.14 1.14 2.3 2.3",
    "MAX_POOL_2D": "1.5 1.14 2.3",
    "MEAN": "1.6 1.14 2.4",
    "MINIMUM": "1.14 1.14 2.3 2.3",
    "MIRROR_PAD": "1.13 2.3 2.12",
    "MUL": "1.5 1.14 1.15 2.3 2.6 2.11 2.14",
    "MULTINOMIAL": "2.8",
    "NEG": "1.9",
    "NON_MAX_SUPPRESSION_V4": "2.1",
    "NON_MAX_SUPPRESSION_V5": "2.1",
    "NOT_EQUAL": "1.14 1.14 2.3",
    "ONE_HOT": "1.11",
    "PACK": "1.11 1.14 2.3 2.14",
    "PAD": "1.5 1.14 2.4 2.6",
    "PADV2": "1.9 1.14 2.4 2.6",
    "POW": "1.10",
    "PRELU": "1.8",
    "QUANTIZE": "1.14 1.15 2.7",
    "RANDOM_STANDARD_NORMAL": "2.8",
    "RANDOM_UNIFORM": "2.8",
    "RANGE": "1.13 2.14",
    "RANK": "1.14",
    "READ_VARIABLE": "2.6",
    "REAL": "2.5",
    "REDUCE_ALL": "2.6",
    "REDUCE_ANY": "1.11",
    "REDUCE_MAX": "1.11 1.14 2.5",
    "REDUCE_MIN": "1.11 1.14 2.5",
    "REDUCE_PROD": "1.11 2.6",
    "RELU": "1.5 2.1 2.5",
    "RELU6": "1.5 1.14 2.5",
    "RELU_0_TO_1": "2.10",
    "RELU_N1_TO_1": "1.5",
    "RESHAPE": "1.5",
    "RESIZE_BILINEAR": "1.7 1.14 2.2 2.5",
    "RESIZE_NEAREST_NEIGHBOR": "1.13 1.14 2.3 2.4",
    "REVERSE_SEQUENCE": "1.14",
    "REVERSE_V2": "1.14 2.2 2.5",
    "RFFT2D": "2.5",
    "RIGHT_SHIFT": "2.14",
    "RNN": "1.5 1.14 2.3",
    "ROUND": "1.14",
    "RSQRT": "1.10 2.5",
    "SCATTER_ND": "2.1",
    "SEGMENT_SUM": "2.2",
    "SELECT": "1.14 1.14 2.12 2.14",
    "SELECT_V2": "2.2 2.14",
    "SHAPE": "1.10",
    "SIGN": "2.11 2.12",
    "SIN": "1.9",
    "SKIP_GRAM": "1.5",
    "SLICE": "1.14 1.14 1.14 2.4 2.5 2.14",
    "SOFTMAX": "1.5 1.14 2.3",
    "SPACE_TO_BATCH_ND": "1.6 1.14 2.3 2.14",
    "SPACE_TO_DEPTH": "1.5 1.14",
    "SPARSE_TO_DENSE": "1.9 1.14 1.15",
    "SPLIT": "1.5 1.14 1.14 2.3",
    "SPLIT_V": "1.13 2.3",
    "SQRT": "1.10",
    "SQUARE": "1.12",
    "SQUARED_DIFFERENCE": "1.13 2.5",
    "SQUEEZE": "1.6 2.5",
    "STRIDED_SLICE": "1.6 1.14 2.1 2.2 2.5 2.6 2.14 2.14",
    "SUB": "1.6 1.14 2.3 2.4 2.4",
    "SUM": "1.10 1.15",
    "SVDF": "1.5 1.14 2.2 2.3",
    "TANH": "1.14 1.14 2.3",
    "TILE": "1.10 2.2 2.8",
    "TOPK_V2": "1.7 1.14 2.14",
    "TRANSPOSE": "1.6 1.14 1.15 2.3 2.4 2.12",
    "TRANSPOSE_CONV": "1.9 2.2 2.3 2.13",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "1.13 1.14 2.3 2.12",
    "UNIDIRECTIONAL_SEQUENCE_RNN": "1.14 1.14 2.3",
    "UNIQUE": "1.14",
    "UNPACK": "1.11 1.14 2.2 2.3",
    "UNSORTED_SEGMENT_MAX": "2.10",
    "UNSORTED_SEGMENT_MIN": "2.11",
    "UNSORTED_SEGMENT_PROD": "2.10",
    "UNSORTED_SEGMENT_SUM": "2.10",
    "VAR_HANDLE": "2.6",
    "WHERE": "1.14 2.8",
    "WHILE": "1.15",
    "ZEROS_LIKE": "1.12",
}


def minimum_runtime(path: str | Path) -> Version:
    """The least TensorFlow release whose TFLite runs the file at ``path``; a file that is no TFLite model needs none: 0.

    Raises :class:`InputError` when the file is damaged.
    """
    path = Path(path)
    return max((release for _, release in _needs(path.read_bytes(), path.name)), default=Version("0"))


def check_runtime(data: bytes, name: str, runtime: str, version: str) -> None:
    """Raise :class:`NoRuntimeError` when the package ``runtime`` of this ``version`` is too old for the TFLite file in ``data``, or lacks a
    custom operator of it, and :class:`InputError` when that is damaged."""
    release = _FIRST_LITERT if runtime == "ai-edge-litert" else Version(version)
    if strangers := custom_operators(data, name):
        raise NoRuntimeError(
            f"{name} has custom operators ({', '.join(strangers)}), which {runtime} {version} does not hold",
            remedy="Convert the model with TensorFlow Lite's own operators alone (without SELECT_TF_OPS and allow_custom_ops).",
        )
    missing = [(operator, needed) for operator, needed in _needs(data, name) if needed > release]
    if missing:
        operator, needed = max(missing, key=lambda item: item[1])
        raise NoRuntimeError(
            f"{name} needs TensorFlow Lite {needed} or newer (for {operator}), and the device has {runtime} {version}",
            remedy="Update the runtime on the device (edgeprune setup), or export tflite in float32, whose operators are older.",
        )


def custom_operators(data: bytes, name: str) -> list[str]:
    """The custom operators of the TFLite file in ``data`` that runtimes do not hold, sorted.  Raises :class:`InputError`: it is damaged."""
    return _read(data, name, lambda model: sorted({code for code in map(_custom, _codes(model)) if code and code not in _CUSTOM}))


def _codes(model: Any) -> list[Any]:
    return [model.OperatorCodes(index) for index in range(model.OperatorCodesLength())]


def _custom(code: Any) -> str:
    """The name of a custom operator; TensorFlow's say so."""
    name = (code.CustomCode() or b"").decode(errors="replace")
    return f"{name} (of TensorFlow)" if name.startswith(_FLEX) else name


def _needs(data: bytes, name: str) -> list[tuple[str, Version]]:
    """Every kind of operator, with its version, and the release it needs."""
    return _read(data, name, _needs_of)


def _read(data: bytes, name: str, work: Callable[[Any], list[T]]) -> list[T]:
    """What ``work`` finds in the model; nothing when ``data`` are no TFLite file."""
    from ai_edge_litert import schema_py_generated as schema

    if data[4:8] != b"TFL3":
        return []
    try:
        return work(schema.Model.GetRootAs(data, 0))
    except Exception as error:  # flatbuffers raise struct.error, TypeError, AttributeError, whatever a wrong offset leads to
        raise InputError(f"the TFLite model {name} is damaged: {error}", remedy="Export or copy it again.") from error


def _needs_of(model: Any) -> list[tuple[str, Version]]:
    from ai_edge_litert import schema_py_generated as schema

    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    found: list[tuple[str, Version]] = []
    kinds: list[str] = []
    for code in _codes(model):
        name = names.get(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()), "")
        kinds.append(name)
        if name == "CUSTOM":
            continue  # see custom_operators
        releases, version = _RELEASES.get(name, "").split(), code.Version()
        found.append((f"{name} version {version}", Version(releases[version - 1]) if 0 < version <= len(releases) else _NEWER))
    for graph in (model.Subgraphs(place) for place in range(model.SubgraphsLength())):
        for operator in (graph.Operators(number) for number in range(graph.OperatorsLength())):
            found += _beside_versions(kinds[operator.OpcodeIndex()], operator, graph, schema.TensorType)
    return list(dict.fromkeys(found))


def _beside_versions(kind: str, operator: Any, graph: Any, types: Any) -> list[tuple[str, Version]]:
    """What an operator needs by the types of its tensors, which its version does not say."""
    if kind in ("FULLY_CONNECTED", "EMBEDDING_LOOKUP"):
        scales = graph.Tensors(operator.Inputs(1)).Quantization()
        if scales is not None and scales.ScaleLength() > 1:
            integer = graph.Tensors(operator.Inputs(0)).Type() == types.INT8
            return [(f"{kind} with a scale for each channel", _PER_CHANNEL_INT8 if integer else _PER_CHANNEL_FLOAT)]
    if kind in ("DIV", "SQRT") and graph.Tensors(operator.Inputs(0)).Type() == types.INT8:
        return [(f"{kind} of int8", _NEWER)]
    if kind == "TRANSPOSE_CONV":
        weights, values = (graph.Tensors(operator.Inputs(place)).Type() for place in (1, 2))
        if weights == types.INT8 and values == types.FLOAT32:
            return [("TRANSPOSE_CONV of float values with int8 weights", _NEWER)]
    return []
