"""Flash that a model takes with the code that runs it: an estimate, from sizes of code that were measured once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from edgeprune.tflite.graph import MicroGraph

METHOD: Final = "reference kernels for a Cortex-M33, arm-none-eabi-gcc 12.2 -Os"

BASE_BYTES: Final = 16_680
"""Of the interpreter, the helpers that kernels share, and their share of the C library: TFLite Micro at commit 90b983c (August 2026),
linked for a Cortex-M33 by arm-none-eabi-gcc 12.2.1 with -Os, --gc-sections, newlib-nano and without error strings; text, rodata, data."""

CODE_BYTES: Final = {
    "ABS": 1_096, "ADD": 5_432, "ADD_N": 1_372, "ARG_MAX": 1_160, "ARG_MIN": 1_160, "ASSIGN_VARIABLE": 584, "AVERAGE_POOL_2D": 2_232,
    "BATCH_MATMUL": 5_016, "BATCH_TO_SPACE_ND": 1_040, "BROADCAST_ARGS": 672, "BROADCAST_TO": 1_308, "CALL_ONCE": 344, "CAST": 1_568,
    "CEIL": 424, "CONCATENATION": 2_336, "CONV_2D": 5_312, "COS": 4_436, "CUMSUM": 1_540, "DEPTHWISE_CONV_2D": 3_128,
    "DEPTH_TO_SPACE": 1_384, "DEQUANTIZE": 792, "DIV": 4_568, "DYNAMIC_UPDATE_SLICE": 2_024, "ELU": 2_004, "EMBEDDING_LOOKUP": 1_228,
    "EQUAL": 4_632, "EXP": 1_092, "EXPAND_DIMS": 600, "FILL": 640, "FLOOR": 288, "FLOOR_DIV": 1_932, "FLOOR_MOD": 1_956,
    "FULLY_CONNECTED": 3_392, "GATHER": 1_568, "GATHER_ND": 1_248, "GREATER": 4_896, "GREATER_EQUAL": 3_984, "HARD_SWISH": 952, "IF": 848,
    "L2_NORMALIZATION": 1_376, "L2_POOL_2D": 1_672, "LEAKY_RELU": 1_016, "LESS": 3_984, "LESS_EQUAL": 3_984, "LOG": 1_052,
    "LOGICAL_AND": 1_224, "LOGICAL_NOT": 368, "LOGICAL_OR": 1_224, "LOGISTIC": 4_276, "LOG_SOFTMAX": 4_668, "MAXIMUM": 4_520,
    "MAX_POOL_2D": 2_312, "MEAN": 3_152, "MINIMUM": 4_528, "MIRROR_PAD": 864, "MUL": 4_924, "NEG": 288, "NOT_EQUAL": 4_616, "PACK": 1_080,
    "PAD": 2_448, "PADV2": 2_464, "PRELU": 2_704, "QUANTIZE": 1_848, "READ_VARIABLE": 368, "REDUCE_ALL": 1_232, "REDUCE_MAX": 1_744,
    "REDUCE_MIN": 1_744, "RELU": 896, "RELU6": 792, "RESHAPE": 968, "RESIZE_BILINEAR": 2_024, "RESIZE_NEAREST_NEIGHBOR": 1_416,
    "REVERSE_V2": 3_720, "ROUND": 472, "RSQRT": 1_640, "SELECT_V2": 4_492, "SHAPE": 368, "SIN": 4_440, "SLICE": 2_072, "SOFTMAX": 5_168,
    "SPACE_TO_BATCH_ND": 1_072, "SPACE_TO_DEPTH": 1_392, "SPLIT": 1_096, "SPLIT_V": 1_200, "SQRT": 504, "SQUARE": 400,
    "SQUARED_DIFFERENCE": 4_524, "SQUEEZE": 648, "STRIDED_SLICE": 4_264, "SUB": 5_512, "SUM": 2_744, "SVDF": 5_020, "TANH": 4_464,
    "TRANSPOSE": 1_168, "TRANSPOSE_CONV": 3_384, "UNIDIRECTIONAL_SEQUENCE_LSTM": 10_072, "UNPACK": 928, "VAR_HANDLE": 488, "WHILE": 1_040,
    "ZEROS_LIKE": 392,
}  # fmt: skip
"""What adding an operator to a program that has CONV_2D adds to it (CONV_2D: to one that has FULLY_CONNECTED), linked as above.  The sums
for MLPerf Tiny's keyword model and for a net of seven operators were 1.5 and 2 % above the programs that were linked.  CMSIS-NN's kernels
are larger."""

UNKNOWN_BYTES: Final = 1_554
"""For an operator that is not in the table: the median of those that are."""


@dataclass(frozen=True)
class Flash:
    """``file_bytes``: the model, exact. ``code_bytes``: the interpreter and the kernels of the model's operators, estimated."""

    file_bytes: int
    code_bytes: int
    method: str

    @property
    def total_bytes(self) -> int:
        """Both."""
        return self.file_bytes + self.code_bytes


def estimate_flash(graph: MicroGraph, file_bytes: int) -> Flash:
    """Flash that a model of ``file_bytes`` takes together with TFLite Micro."""
    names = {operator.name for operator in graph.operators}
    return Flash(file_bytes, BASE_BYTES + sum(CODE_BYTES.get(name, UNKNOWN_BYTES) for name in names), METHOD)
