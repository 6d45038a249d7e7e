"""The placeholders of recurrent layers in a converted file, and TFLite's own operators in their place.

A placeholder (:mod:`edgeprune.export.passes.recurrent`) is a composite that reads the sequence, the first states and the weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from torch import Tensor

from edgeprune.export.keep import Aliases, named
from edgeprune.export.passes.recurrent import PREFIX
from edgeprune.tflite import schema as flatbuffer
from edgeprune.tflite.file import TfliteFile
from edgeprune.tflite.interpreter import invoke, open_tflite, value_of
from edgeprune.tflite.ranges import Ranges
from edgeprune.tflite.recurrent import Cell, Mode, Places, write
from edgeprune.tflite.trim import drop_unread_operators, drop_unread_tensors, drop_unrun_graphs, drop_unused_codes


@dataclass(frozen=True)
class _Placeholder:
    """``states``: tensors; ``graph``: the number of its own."""

    operator: Any
    name: str
    cell: Cell
    x: int
    states: tuple[int, ...]
    y: int
    last: int
    graph: int


def placed(
    content: bytes, mode: Mode, ranges: Sequence[Ranges] = (), keep_float: Sequence[str] = (), aliases: Aliases | None = None
) -> bytes:
    """The file with TFLite's operators in the places of its placeholders.  ``ranges``: of each, for int8.  ``keep_float``: regular
    expressions that are searched in the names and ``aliases`` of their outputs; what fits is float32 whatever ``mode`` is."""
    file = TfliteFile(content)
    found = list(_placeholders(file))
    if not found:
        return content
    for number, placeholder in enumerate(found):
        place = file.operators.index(placeholder.operator)
        file.operators.pop(place)
        outputs = [file.name(tensor) for tensor in (placeholder.y, placeholder.last)]
        kept = any(named(pattern, output, aliases or {}) for pattern in keep_float for output in outputs)
        own: Mode = "float" if kept else mode
        if own == "int8":
            _place_int8(file, place, placeholder, ranges[number])
        else:
            y, last = (tensor if _readers(file, tensor) else None for tensor in (placeholder.y, placeholder.last))
            ends = Places(placeholder.x, y, placeholder.states, last)
            write(file, place, placeholder.cell, ends, placeholder.name, own)
    drop_unread_operators(file.graph, file.model, ("DEQUANTIZE",))
    drop_unrun_graphs(file.model)
    drop_unused_codes(file.model)
    drop_unread_tensors(file.model)
    return file.pack()


def watched(content: bytes, samples: Sequence[tuple[Tensor, ...]]) -> list[Ranges]:
    """Ranges of all that every layer of a file with placeholders computes on ``samples``, inputs as the file takes them."""
    file = TfliteFile(content)
    found, ranges = list(_placeholders(file)), []
    if not found or not samples:
        return []
    interpreter = open_tflite(placed(content, "float"), keep_all=True)
    details = {detail["name"]: detail for detail in interpreter.get_tensor_details()}
    seen: list[list[list[np.ndarray[Any, Any]]]] = []
    for sample in samples:
        invoke(interpreter, sample)
        names = [[file.name(tensor) for tensor in (placeholder.x, *placeholder.states)] for placeholder in found]
        seen.append([[value_of(interpreter, details[name]).numpy().copy() for name in part] for part in names])
    for number, placeholder in enumerate(found):
        ranges.append(Ranges())
        batch = 1 - placeholder.cell.time
        parts = list(zip(*(sample[number] for sample in seen), strict=True))
        x, *states = (np.concatenate(part, 0 if place else batch) for place, part in enumerate(parts))
        placeholder.cell.run(x, states, ranges[-1])
    return ranges


def _placeholders(file: TfliteFile) -> Iterator[_Placeholder]:
    for operator in file.operators:
        options = operator.builtinOptions2
        name = flatbuffer.text(getattr(options, "name", None))
        if not name.startswith(PREFIX):
            continue
        kind, major, way, count, biases = name.removeprefix(PREFIX).split(".")
        x, *rest = map(int, operator.inputs)
        states, weights = tuple(rest[: int(count)]), [file.constant(tensor) for tensor in rest[int(count) :]]
        w_input, w_hidden = weights[:2]
        assert w_input is not None and w_hidden is not None
        zero = np.zeros(w_input.shape[0], np.float32)
        b_input, b_hidden = weights[2:4] if biases == "biases" else (zero, zero)
        assert b_input is not None and b_hidden is not None
        projection = weights[-1] if len(weights) in (3, 5) else None
        cell = Cell(kind, w_input, w_hidden, b_input, b_hidden, projection, major == "time", way == "reverse")
        y, last = map(int, operator.outputs)
        yield _Placeholder(operator, file.name(y), cell, x, states, y, last, int(options.decompositionSubgraphIndex))


def _readers(file: TfliteFile, tensor: int) -> list[Any]:
    """What reads a tensor; the graph itself where it is an output."""
    ends = [file.graph] if tensor in list(file.graph.outputs) else []
    return [*ends, *(operator for operator in file.operators if tensor in list(operator.inputs))]


def _place_int8(file: TfliteFile, place: int, found: _Placeholder, ranges: Ranges) -> None:
    """Write an int8 layer that reads and writes the int8 tensors around it: what converts them is passed over."""
    x = _quantized_input(file, found, ranges)
    if x is None:
        x = file.new_tensor(f"{found.name}.x", file.shape(found.x), np.int8, scale=ranges.int8("x"))
        file.add_operator(place, "QUANTIZE", [found.x], [x], ("QuantizeOptions", schema.QuantizeOptionsT()))
        place += 1
    readers = _readers(file, found.y)
    results = [reader for reader in readers if reader is not file.graph and file.operation(reader) == "QUANTIZE"]
    results = [reader for reader in results if file.dtype(int(reader.outputs[0])) == np.int8]
    y = None
    if readers:
        scale = file.scale(int(results[0].outputs[0])) if results else ranges.int8("h")
        y = file.new_tensor(f"{found.name}.int8", file.shape(found.y), np.int8, scale=scale)
    for reader in results:
        result = int(reader.outputs[0])
        if result not in list(file.graph.outputs) and file.scale(result) == scale:
            file.operators.remove(reader)
            for after in _readers(file, result):
                after.inputs = np.array([y if index == result else index for index in after.inputs], np.int32)
    before = len(file.operators)
    last = found.last if _readers(file, found.last) else None
    write(file, place, found.cell, Places(x, y, found.states, last), found.name, "int8", ranges)
    place += len(file.operators) - before
    if y is not None and _readers(file, found.y):
        file.add_operator(place, "DEQUANTIZE", [y], [found.y], ("DequantizeOptions", schema.DequantizeOptionsT()), 2)


def _quantized_input(file: TfliteFile, found: _Placeholder, ranges: Ranges) -> int | None:
    """The int8 tensor that the input is the real numbers of; None where it is not made from one."""
    for operator in file.operators:
        if found.x in list(operator.outputs) and file.operation(operator) == "DEQUANTIZE":
            source = int(operator.inputs[0])
            return source if file.dtype(source) == np.int8 and file.scale(source) is not None else None
    return None
