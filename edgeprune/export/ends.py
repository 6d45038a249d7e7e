"""The inputs and outputs of a file that is quantized: what they hold, and that they hold what was promised.

Quantizers take a tensor to be an output or something that operators read, and get the type of one wrong that is both.  So each output gets
a tensor of its own first, and the copies are taken out again afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgeprune.errors import ExportError
from edgeprune.tflite.file import TfliteFile

COPY: Final = "/edgeprune_output"
"""What follows an output's name in that of its copy, before a number."""


def with_own_outputs(content: bytes, *, every: bool = False) -> bytes:
    """A float file in which no output is read by an operator, or is another output too: such ones (or ``every`` one) become copies."""
    file = TfliteFile(content)
    outputs = [int(tensor) for tensor in file.graph.outputs]
    read = {int(tensor) for operator in file.operators for tensor in operator.inputs}
    changed = False
    for place, tensor in enumerate(outputs):
        if not every and tensor not in read and tensor not in outputs[:place]:
            continue
        changed = True
        outputs[place] = _add_copy(file, tensor)
        _redirect(file.model, place, tensor, outputs[place])
    if not changed:
        return content
    file.graph.outputs = np.array(outputs, np.int32)
    return file.pack()


def copied_inputs(content: bytes) -> list[str]:
    """Names of the copies that :func:`with_own_outputs` made of inputs: they need no quantization."""
    file = TfliteFile(content)
    inputs = [int(tensor) for tensor in file.graph.inputs]
    return [file.name(int(entry.outputs[0])) for entry in _copies(file) if int(entry.inputs[0]) in inputs]


def _copies(file: TfliteFile) -> list[Any]:
    return [entry for entry in file.operators if file.operation(entry) == "RESHAPE" and COPY in file.name(int(entry.outputs[0]))]


def _add_copy(file: TfliteFile, tensor: int) -> int:
    shape = np.array(file.shape(tensor), np.int32)
    copy = file.add_tensor(tensor, f"{file.name(tensor)}{COPY}{len(file.graph.tensors)}", file.shape(tensor))
    sizes = file.add_tensor(tensor, f"{file.name(copy)}/shape", (len(shape),), shape)
    options = schema.ReshapeOptionsT()
    options.newShape = shape
    file.add_operator(len(file.operators), "RESHAPE", [tensor, sizes], [copy], ("ReshapeOptions", options))
    return copy


def _redirect(model: Any, place: int, before: int, after: int) -> None:
    """Let the signature's output of this place be another tensor.  Two outputs may be the same tensor: the first entry of it that was not
    redirected is meant."""
    for signature in model.signatureDefs or ():
        if signature.subgraphIndex == 0:
            entry = next((item for item in signature.outputs if item.tensorIndex == before), None)
            if entry is not None:
                entry.tensorIndex = after


def without_copies(content: bytes, states: Sequence[tuple[int, int]] = ()) -> bytes:
    """The quantized file without the copies of :func:`with_own_outputs`.  ``states``: places of inputs and of the outputs that are fed to
    them; such an output has its input's scale and zero point, and where what it copied has others, the copy becomes a change of scale."""
    file = TfliteFile(content)
    copies = _copies(file)
    fed = {int(file.graph.outputs[after]): int(file.graph.inputs[before]) for before, after in states}
    for operator in copies:
        source, copy = int(operator.inputs[0]), int(operator.outputs[0])
        if copy in fed and _scale(file, fed[copy]) != _scale(file, source):
            file.turn_into(operator, "QUANTIZE", [source])
            file.graph.tensors[copy].quantization = file.graph.tensors[fed[copy]].quantization
            continue
        file.operators.remove(operator)
        for reader in file.operators:
            reader.inputs = np.array([source if tensor == copy else tensor for tensor in reader.inputs], np.int32)
        file.graph.outputs = np.array([source if tensor == copy else tensor for tensor in file.graph.outputs], np.int32)
        for signature in file.model.signatureDefs or ():
            for entry in signature.outputs:
                entry.tensorIndex = source if entry.tensorIndex == copy else entry.tensorIndex
    return file.pack() if copies else content


def _scale(file: TfliteFile, tensor: int) -> tuple[float, int]:
    found = file.graph.tensors[tensor].quantization
    return float(found.scale[0]), int(found.zeroPoint[0])


def state_pairs(content: bytes) -> list[tuple[int, int]]:
    """Places of the inputs that the application feeds with an output of the inference before, and of these outputs.

    Those of a model of several inputs and outputs where as many outputs as inputs have a shape: in their order.
    """
    file = TfliteFile(content)
    sides = [[int(tensor) for tensor in side] for side in (file.graph.inputs, file.graph.outputs)]
    if min(map(len, sides)) < 2:
        return []
    pairs: list[tuple[int, int]] = []
    for shape in dict.fromkeys(map(file.shape, sides[1])):
        into, out = ([at for at, one in enumerate(side) if file.is_float(one) and file.shape(one) == shape] for side in sides)
        if len(into) == len(out):
            pairs += zip(into, out, strict=True)
    return pairs


def require_types(name: str, float_tflite: bytes, content: bytes, *, integer_io: bool) -> None:
    """Raise :class:`ExportError` naming the format and the input or output that is not of the type promised: that of the float file, or
    int8 in the place of floats where ``integer_io``."""
    before, after = TfliteFile(float_tflite), TfliteFile(content)
    for side, wanted, got in (("input", before.graph.inputs, after.graph.inputs), ("output", before.graph.outputs, after.graph.outputs)):
        for place, (one, other) in enumerate(zip(wanted, got, strict=True)):
            kind = before.graph.tensors[one].type
            promised = schema.TensorType.INT8 if integer_io and kind == schema.TensorType.FLOAT32 else kind
            found = after.graph.tensors[other].type
            if found != promised:
                raise ExportError(
                    f"{name}: {side} {place} ({before.name(int(one))}) has type {_TYPES[found]}, not {_TYPES[promised]}",
                    remedy="Export without integer_io." if integer_io else "Use tflite, tflite-fp16 or tflite-dynamic.",
                )


_TYPES: Final[dict[int, str]] = {code: name.lower() for name, code in vars(schema.TensorType).items() if isinstance(code, int)}
