"""The precisions a model can run in on a device, each with its file format and what it stores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeprune.cost.weights import FLOAT32, Storage
from edgeprune.errors import InputError


@dataclass(frozen=True)
class Precision:
    """``format``: of the files that are measured, by the runtime ``tflite``; ``storage``: how that stores a model; ``tolerance``: largest
    difference of a device's outputs to those of the same file on the host, as a share of the largest output."""

    name: str
    format: str
    storage: Storage
    tolerance: float


FLOAT_TOLERANCE = 2e-3
"""Another processor's float32 kernels."""

QUANTIZED_TOLERANCE = 0.06
"""Another processor's int8 kernels round otherwise: 16 of the 256 steps of an output."""

# a channel of int8 weights: an int32 bias, and for weights and bias a float32 scale and an int64 zero point each
PRECISIONS = {
    item.name: item
    for item in (
        Precision("fp32", "tflite", FLOAT32, FLOAT_TOLERANCE),
        Precision("fp16", "tflite-fp16", Storage(4, 2, 4, 4, 4, 2.0), FLOAT_TOLERANCE),
        Precision("dynamic", "tflite-dynamic", Storage(4, 1, 16, 1, 16, 2.0), QUANTIZED_TOLERANCE),
        Precision("int8", "tflite-int8", Storage(1, 1, 28, 1, 28, 2.0), QUANTIZED_TOLERANCE),
    )
}


def find_precision(name: str) -> Precision:
    """The precision called ``name``.  Raises :class:`InputError` that lists the known ones."""
    if name not in PRECISIONS:
        raise InputError(f"unknown precision {name!r}", remedy=f"Known precisions: {', '.join(PRECISIONS)}.")
    return PRECISIONS[name]


def check_precisions(names: Sequence[str], target: str | None, engine: str | None) -> None:
    """Raise :class:`InputError` when nothing can measure one of these: without a device, or on one that runs another engine."""
    needing = [name for name in names if name != "fp32"]
    if needing and (target is None or engine not in (None, "tflite")):
        raise InputError(
            f"the precision {needing[0]} needs a device that runs tflite",
            remedy="Give a target, and the engine tflite; or leave the precision out (a microcontroller's models are int8 anyway).",
        )
