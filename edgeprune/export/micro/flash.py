"""Flash that a model takes with the code that runs it: an estimate, from sizes of code that were measured once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from edgeprune.export.micro.graph import MicroGraph

METHOD: Final = "reference kernels for a Cortex-M33, arm-none-eabi-gcc 12.2 -Os"

BASE_BYTES: Final = 11_532
"""Of the interpreter without any operator and its share of the C library: TFLite Micro at commit 90b983c (August 2026), linked for a
Cortex-M33 by arm-none-eabi-gcc 12.2.1 with -Os, --gc-sections, newlib-nano and without error strings; text, rodata and data."""

CODE_BYTES: Final = {
    "ADD": 5_432, "AVERAGE_POOL_2D": 2_232, "CONV_2D": 10_460, "DEPTHWISE_CONV_2D": 3_128, "FULLY_CONNECTED": 3_392, "MAX_POOL_2D": 2_312,
    "MEAN": 3_152, "MUL": 4_924, "PAD": 2_448, "PADV2": 2_464, "RESHAPE": 968, "SOFTMAX": 5_168, "SUB": 5_512, "SUM": 2_744,
    "TRANSPOSE": 1_168,
}  # fmt: skip
"""What adding an operator to a program that has CONV_2D adds to it (CONV_2D: to one that has none), linked as above.  Operators share
helpers, so that a sum of them is rather too much; CMSIS-NN's kernels are larger."""

UNKNOWN_BYTES: Final = 3_128
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
