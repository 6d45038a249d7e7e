"""``WHILE``: one step of a layer as a graph, run as often as there are steps.

TFLite copies what a loop carries at every step: the sequences are carried as they are, and the output only where it is read.  With int8,
products and gates are int8, and the state of a GRU is float32: it changes by small steps, which int8 would lose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgeprune.tflite.file import Scale, TfliteFile
from edgeprune.tflite.recurrent.cell import Cell
from edgeprune.tflite.recurrent.writer import Writer

_SIGMOID: Final = Scale(2.0**-8, -128)
_TANH: Final = Scale(2.0**-7)
"""What TFLite's int8 LOGISTIC and TANH give."""


@dataclass(frozen=True)
class _Carried:
    """What the loop hands from step to step, as tensors of one graph; ``y``: None where nothing reads it."""

    t: int
    h: int
    x: int
    y: int | None

    @property
    def all(self) -> list[int]:
        return [part for part in (self.t, self.h, self.x, self.y) if part is not None]


def write_loop(writer: Writer, cell: Cell, x: int, y: int | None, states: Sequence[int], last: int | None) -> None:
    """All steps of a GRU or plain RNN from ``x`` to ``y``; ``last``: where its last state goes."""
    file = writer.file
    steps, batch = file.shape(x)[cell.time], file.shape(x)[1 - cell.time]
    shape = (batch, cell.hidden)
    dtype, scale = _state_type(writer, cell, y)
    h = writer.constant(np.full(shape, scale.zero if scale else 0), dtype, scale)
    if states:
        h = states[0] if scale is None else writer.converted(states[0], writer.tensor(shape, dtype, scale))
    t = writer.constant(0)
    sequence = None if y is None else writer.zeros(file.shape(y), writer.tensor(file.shape(y), file.dtype(y), file.scale(y)))
    entry = _Carried(t, h, x, sequence)
    final = writer.tensor(shape, dtype, scale, "state")
    ends = _Carried(_like(writer, file, t), final, _like(writer, file, x), y)
    for unread in (ends.t, ends.x):  # runtimes do not store them, and who looks at every named tensor would fail
        file.graph.tensors[unread].name = b""
    options = schema.WhileOptionsT()
    options.condSubgraphIndex = _condition(writer, entry, steps)
    options.bodySubgraphIndex = _body(writer, cell, entry, steps)
    file.add_operator(writer.place, "WHILE", entry.all, ends.all, ("WhileOptions", options))
    writer.place += 1
    if last is not None:
        _read_state(writer, final, last)


def _state_type(writer: Writer, cell: Cell, y: int | None) -> tuple[Any, Scale | None]:
    if not writer.integer or cell.kind == "gru":
        return np.float32, None
    if y is not None:
        return np.int8, writer.file.scale(y)
    return np.int8, _TANH if cell.kind == "rnn_tanh" else writer.scale("h")


def _read_state(writer: Writer, state: int, last: int) -> None:
    if writer.file.scale(state):
        writer.converted(state, last)
    else:
        writer.op("RESHAPE", [state, writer.constant(writer.file.shape(last))], last, schema.ReshapeOptionsT())


def _like(writer: Writer, file: TfliteFile, tensor: int) -> int:
    return writer.tensor(file.shape(tensor), file.dtype(tensor), file.scale(tensor))


def _entered(writer: Writer, name: str, entry: _Carried) -> tuple[Writer, _Carried]:
    """A graph with the loop's tensors as its inputs."""
    graph = writer.file.add_graph(f"{writer.name}/{name}")
    inner = writer.within(graph)
    t, h, x = (_like(inner, writer.file, part) for part in (entry.t, entry.h, entry.x))
    carried = _Carried(t, h, x, None if entry.y is None else _like(inner, writer.file, entry.y))
    graph.graph.inputs = np.array(carried.all, np.int32)
    return inner, carried


def _condition(writer: Writer, entry: _Carried, steps: int) -> int:
    inner, carried = _entered(writer, "while", entry)
    result = inner.op("LESS", [carried.t, inner.constant(steps)], inner.tensor((), np.bool_), schema.LessOptionsT())
    inner.file.graph.outputs = np.array([result], np.int32)
    return inner.file.place


def _body(writer: Writer, cell: Cell, entry: _Carried, steps: int) -> int:
    inner, carried = _entered(writer, "step", entry)
    file = inner.file
    count = inner.op("ADD", [carried.t, inner.constant(1)], inner.tensor((), np.int32), schema.AddOptionsT())
    place = carried.t
    if cell.reverse:
        place = inner.op("SUB", [inner.constant(steps - 1), carried.t], inner.tensor((), np.int32), schema.SubOptionsT())
    options = schema.GatherOptionsT()
    options.axis = cell.time
    batch, width = file.shape(carried.h)[0], file.shape(carried.x)[2]
    now = inner.op("GATHER", [carried.x, place], inner.tensor((batch, width), file.dtype(carried.x), file.scale(carried.x)), options)
    h = _gru_step(inner, cell, now, carried.h) if cell.kind == "gru" else _rnn_step(inner, cell, now, carried.h)
    y = None if carried.y is None else _put(inner, cell, carried.y, h, place)
    file.graph.outputs = np.array(_Carried(count, h, carried.x, y).all, np.int32)
    return file.place


def _put(writer: Writer, cell: Cell, y: int, h: int, place: int) -> int:
    """``y`` with ``h`` at the step ``place``."""
    file = writer.file
    if file.dtype(h) != file.dtype(y):
        h = writer.converted(h, writer.tensor(file.shape(h), np.int8, file.scale(y)))
    shape = list(file.shape(y))
    shape[cell.time] = 1
    reshape = schema.ReshapeOptionsT()
    reshape.newShape = np.array(shape, np.int32)
    row = writer.op("RESHAPE", [h, writer.constant(shape)], writer.tensor(tuple(shape), file.dtype(h), file.scale(h)), reshape)
    pack, zero = schema.PackOptionsT(), writer.constant(0)
    begin = [zero, zero, zero]
    begin[cell.time] = place
    pack.valuesCount = 3
    where = writer.op("PACK", begin, writer.tensor((3,), np.int32), pack)
    return writer.op("DYNAMIC_UPDATE_SLICE", [y, row, where], _like(writer, file, y), schema.DynamicUpdateSliceOptionsT())


def _gru_step(writer: Writer, cell: Cell, x: int, h: int) -> int:
    """``n + z * (h - n)`` of the new state n, its inputs r * (W h + b) + (V x + c), and the gates r and z."""
    file, integer, size = writer.file, writer.integer, cell.hidden
    batch, both = file.shape(h)[0], 2 * size
    before = writer.converted(h, writer.tensor((batch, size), np.int8, writer.scale("h"))) if integer else h

    def scaled(width: int, name: str | Scale) -> int:
        scale = name if isinstance(name, Scale) else writer.scale(name)
        return writer.tensor((batch, width), np.int8 if integer else np.float32, scale if integer else None)

    def product(source: int, matrix: Any, bias: Any, rows: slice, name: str) -> int:
        return writer.fully_connected(source, matrix[rows], bias[rows], name)

    gates, news = slice(0, both), slice(both, None)
    parts = [product(x, cell.w_input, cell.b_input, gates, "gates_x"), product(before, cell.w_hidden, cell.b_hidden, gates, "gates_h")]
    total = writer.op("ADD", parts, scaled(both, "gates"), schema.AddOptionsT())
    opened = writer.op("LOGISTIC", [total], scaled(both, _SIGMOID))
    r, z = scaled(size, _SIGMOID), scaled(size, _SIGMOID)
    split = schema.SplitOptionsT()
    split.numSplits = 2
    writer.op("SPLIT", [writer.constant(1), opened], r, split)
    file.operators[writer.place - 1].outputs = np.array([r, z], np.int32)  # one operator, two outputs
    of_state = product(before, cell.w_hidden, cell.b_hidden, news, "new_h")
    let_in = writer.op("MUL", [r, of_state], scaled(size, "new_r"), schema.MulOptionsT())
    of_input = product(x, cell.w_input, cell.b_input, news, "new_x")
    n = writer.op("TANH", [writer.op("ADD", [of_input, let_in], scaled(size, "new"), schema.AddOptionsT())], scaled(size, _TANH))
    return _mixed(writer, n, z, h)


def _mixed(writer: Writer, n: int, z: int, h: int) -> int:
    """``n + z * (h - n)``, in float32."""
    shape = writer.file.shape(h)
    if writer.integer:
        n, z = (writer.converted(part, writer.tensor(shape)) for part in (n, z))
    kept = writer.op("SUB", [h, n], writer.tensor(shape), schema.SubOptionsT())
    kept = writer.op("MUL", [z, kept], writer.tensor(shape), schema.MulOptionsT())
    return writer.op("ADD", [n, kept], writer.tensor(shape), schema.AddOptionsT())


def _rnn_step(writer: Writer, cell: Cell, x: int, h: int) -> int:
    """``tanh`` or ``relu`` of V x + c + W h + b."""
    file, shape = writer.file, writer.file.shape(h)
    dtype, scale = file.dtype(h), file.scale(h)
    parts = [writer.fully_connected(x, cell.w_input, cell.b_input, "new_x")]
    parts.append(writer.fully_connected(h, cell.w_hidden, cell.b_hidden, "new_h"))
    options = schema.AddOptionsT()
    if cell.kind == "rnn_relu":
        options.fusedActivationFunction = schema.ActivationFunctionType.RELU
        return writer.op("ADD", parts, writer.tensor(shape, dtype, scale), options)
    total = writer.tensor(shape, dtype, writer.scale("new"))
    n = writer.op("TANH", [writer.op("ADD", parts, total, options)], writer.tensor(shape, dtype, _TANH if writer.integer else None))
    if scale in (None, _TANH):
        return n
    return writer.converted(n, writer.tensor(shape, dtype, scale))
