"""The precisions a model can run in on a device, each with its file format and what it stores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from edgeprune.cost.weights import FLOAT32, INT8_MICRO, Storage
from edgeprune.engines import FORMATS, INT8, TFLITE
from edgeprune.errors import InputError
from edgeprune.export.options import ExportOptions


@dataclass(frozen=True)
class Precision:
    """``format``: of the files that are measured; ``storage``: how the runtime stores a model; ``tolerance``: largest difference of a
    device's outputs to what is expected, as a share of the largest output. ``lossy``: the file computes something else than the model on
    purpose, so that outputs and scores are compared with the same file on the host. ``layout``: how files are laid out. ``exclusive``: no
    other format is exported."""

    name: str
    format: str
    storage: Storage
    tolerance: float
    lossy: bool = True
    layout: ExportOptions = field(default_factory=ExportOptions)
    exclusive: bool = False


FLOAT_TOLERANCE = 2e-3
"""Another processor's float32 kernels."""

QUANTIZED_TOLERANCE = 0.06
"""Another processor's int8 kernels round otherwise: 16 of the 256 steps of an output."""


def float_precision(engine: str) -> Precision:
    """float32 files of ``engine``'s format, whose outputs are the model's."""
    return Precision("fp32", engine, FLOAT32, FLOAT_TOLERANCE, lossy=False)


def _of_format(name: str, storage: Storage, tolerance: float) -> Precision:
    return Precision(FORMATS[name].precision, name, storage, tolerance)


MICRO = Precision("int8", INT8, INT8_MICRO, QUANTIZED_TOLERANCE, layout=ExportOptions(integer_io=True, channels_last=True), exclusive=True)
"""int8 with integer inputs and outputs, as TFLite Micro runs it."""

# a channel of int8 weights: an int32 bias, and for weights and bias a float32 scale and an int64 zero point each
PRECISIONS = {
    item.name: item
    for item in (
        float_precision(TFLITE),
        _of_format("tflite-fp16", Storage(4, 2, 4, 4, 4, 2.0), FLOAT_TOLERANCE),
        _of_format("tflite-dynamic", Storage(4, 1, 16, 1, 16, 2.0), QUANTIZED_TOLERANCE),
        _of_format(INT8, Storage(1, 1, 28, 1, 28, 2.0), QUANTIZED_TOLERANCE),
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
    if needing and (target is None or engine not in (None, TFLITE)):
        raise InputError(
            f"the precision {needing[0]} needs a device that runs tflite",
            remedy="Give a target and the engine tflite, or remove the precision (a microcontroller's models are int8 anyway).",
        )
