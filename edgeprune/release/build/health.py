"""The check a device makes before it serves a release: seeded inputs, and the outputs they must give."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch

from edgeprune.engines import TFLITE
from edgeprune.errors import ExportError
from edgeprune.export import formats
from edgeprune.runs.finished import Exported
from edgeprune.runs.summary import InputSummary
from edgeprune.tflite.interpreter import open_tflite

FLOAT_TOLERANCE: Final = 2e-3
"""Of float32 kernels of another processor: as :data:`edgeprune.search.precision.FLOAT_TOLERANCE`."""

QUANTIZED_TOLERANCE: Final = 0.1
"""Of quantized kernels. Between x86-64 and aarch64 under one runtime nothing differed (``tests/release/test_build_board.py``); kernels of
another version or accelerator may round otherwise, by steps of 1/255 of a range, which later layers add up."""

Array = np.ndarray[Any, Any]


def tolerance_of(format_name: str) -> float:
    """How far another device's outputs may be from this one's, as a share of the largest magnitude."""
    entry = formats.find(format_name)
    return QUANTIZED_TOLERANCE if entry.verify is not None else max(FLOAT_TOLERANCE, entry.tolerance)


def health_of(exported: Exported, specs: Sequence[InputSummary], seed: int = 0) -> tuple[list[bytes], list[bytes]]:
    """Inputs and outputs of one inference of the file as ``.npy`` contents, in the file's own shapes and dtypes.

    ``specs``: shape and dtype of the PyTorch model's inputs, for files that do not hold them. Raises :class:`ExportError` when the file
    does not run on this machine.
    """
    try:
        if formats.find(exported.format).engine == TFLITE:
            inputs, outputs = _tflite(exported.content, seed)
        else:
            inputs = seeded(specs, seed)
            loaded = formats.find(exported.format).load(exported.path)
            outputs = [value.numpy() for value in loaded(tuple(map(torch.from_numpy, inputs)))]
    except Exception as error:
        raise ExportError(f"{exported.path} does not run on this machine: {error}") from error
    return [_npy(value) for value in inputs], [_npy(value) for value in outputs]


def _tflite(content: bytes, seed: int) -> tuple[list[Array], list[Array]]:
    interpreter = open_tflite(content)
    details = interpreter.get_input_details()
    inputs = seeded([InputSummary([int(size) for size in detail["shape"]], np.dtype(detail["dtype"]).name) for detail in details], seed)
    for detail, value in zip(details, inputs, strict=True):
        interpreter.set_tensor(detail["index"], value)
    interpreter.invoke()
    return inputs, [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


def seeded(specs: Sequence[InputSummary], seed: int) -> list[Array]:
    """Standard normal floats; 8-bit integers over their range; wider ones 0 or 1, which are valid as indices."""
    state = np.random.RandomState(seed)
    arrays = []
    for spec in specs:
        dtype, shape = np.dtype(spec.dtype), tuple(spec.shape)
        if dtype.kind == "f":
            values: Any = state.standard_normal(shape)
        elif dtype.kind in "iu" and dtype.itemsize == 1:
            values = state.randint(np.iinfo(dtype).min, int(np.iinfo(dtype).max) + 1, size=shape)
        else:
            values = state.randint(0, 2, size=shape)
        arrays.append(np.asarray(values).reshape(shape).astype(dtype))
    return arrays


def _npy(value: Array) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(value, order="C"), allow_pickle=False)
    return file.getvalue()
