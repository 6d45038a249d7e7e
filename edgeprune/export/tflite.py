"""TFLite by litert-torch: float32, inputs laid out as the PyTorch model takes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edgeprune.export import cache, converter
from edgeprune.export.formats import Format, register
from edgeprune.export.quiet import quiet_stderr
from edgeprune.export.source import Source


def _write(source: Source) -> bytes:
    program = source.program
    key = cache.program_key(program)
    content = cache.read(key)
    if content is None:
        content = converter.CONVERTER.convert(program, source.time_limit_s)
        cache.write(key, content)
    return content


def _run(path: Path, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    from ai_edge_litert.interpreter import Interpreter

    with quiet_stderr():
        interpreter = Interpreter(model_path=str(path), num_threads=1)
        interpreter.allocate_tensors()
    for detail, value in zip(interpreter.get_input_details(), inputs, strict=True):
        interpreter.set_tensor(detail["index"], np.ascontiguousarray(value.numpy(), dtype=detail["dtype"]))
    interpreter.invoke()
    return [torch.from_numpy(interpreter.get_tensor(detail["index"])) for detail in interpreter.get_output_details()]


TFLITE = register(Format("tflite", ".tflite", _write, _run, external=True))
