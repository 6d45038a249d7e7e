"""TFLite's interpreter on this machine, with real numbers at both ends whatever a file's inputs and outputs are."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor

from edgeprune.tflite.quiet import quiet_stderr


class _Scales(TypedDict):
    scales: np.ndarray[Any, Any]
    zero_points: np.ndarray[Any, Any]


class TensorDetail(TypedDict):
    """What the interpreter reports of a tensor, as far as it is used here."""

    index: int
    name: str
    shape: np.ndarray[Any, Any]
    dtype: Any
    quantization: tuple[float, int]
    quantization_parameters: _Scales


def open_tflite(content: bytes, *, keep_all: bool = False) -> Any:
    """An interpreter of one thread, its tensors allocated.  ``keep_all``: what operators hand to each other can be read afterwards."""
    from ai_edge_litert.interpreter import Interpreter

    with quiet_stderr(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        interpreter = Interpreter(model_content=content, num_threads=1, experimental_preserve_all_tensors=keep_all)
        interpreter.allocate_tensors()
    return interpreter


def invoke(interpreter: Any, inputs: Sequence[Tensor]) -> None:
    """Run one inference.  ``inputs``: as the file lays them out, in order; floating-point ones are quantized where the file's are int8."""
    for detail, value in zip(interpreter.get_input_details(), inputs, strict=True):
        array, (scale, zero) = value.numpy(), detail["quantization"]
        if scale and array.dtype.kind == "f" and np.dtype(detail["dtype"]).kind == "i":
            limits = np.iinfo(detail["dtype"])
            array = np.clip(np.round(array / scale) + zero, limits.min, limits.max)
        interpreter.set_tensor(detail["index"], np.asarray(array, dtype=detail["dtype"], order="C"))
    interpreter.invoke()


def value_of(interpreter: Any, detail: TensorDetail) -> Tensor:
    """A tensor as it is now; one that is quantized as a whole as the real numbers it stands for."""
    array, parameters = interpreter.get_tensor(detail["index"]), detail["quantization_parameters"]
    if len(parameters["scales"]) == 1 and array.dtype.kind == "i":
        array = (array.astype(np.float32) - np.float32(parameters["zero_points"][0])) * np.float32(parameters["scales"][0])
    return torch.from_numpy(np.asarray(array, order="C"))  # which keeps a number a number
