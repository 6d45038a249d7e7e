"""``UNIDIRECTIONAL_SEQUENCE_LSTM`` and ``UNIDIRECTIONAL_SEQUENCE_RNN``: all steps of a layer by one operator.

Inputs and types as in tensorflow/lite/kernels/unidirectional_sequence_lstm.cc and unidirectional_sequence_rnn.cc.  The integer kernel
computes gates in int16 of 2 ** -12, and the cell's state in int16 of a power of two (the 8x8_16 form of lstm_eval.cc there).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgeprune.tflite.file import Scale
from edgeprune.tflite.recurrent.cell import Cell
from edgeprune.tflite.recurrent.writer import Writer

_GATE: Final = Scale(2.0**-12)
_ABSENT: Final = -1


def write_lstm(writer: Writer, cell: Cell, x: int, y: int, states: Sequence[int], last: int | None) -> None:
    """All steps of an LSTM from ``x`` to ``y``; ``last``: where its last cell state goes."""
    file, integer = writer.file, writer.integer
    batch = file.shape(x)[1 - cell.time]
    scale, cell_scale = (file.scale(y), writer.ranges.int16("c")) if integer else (None, None)
    h = writer.state((batch, cell.output), np.int8 if integer else np.float32, scale, "h")
    c = writer.state((batch, cell.hidden), np.int16 if integer else np.float32, cell_scale, "c")
    _begin(writer, [h, c], states)
    source, result = _ends(writer, cell, x, y)
    weights = [writer.weight(part) for matrix in (cell.w_input, cell.w_hidden) for part in cell.gates(matrix)]
    biases = [
        writer.bias(values, file.scale(source), matrix)
        for values, matrix in zip(cell.gates(cell.b_input + cell.b_hidden), cell.gates(cell.w_input), strict=True)
    ]
    projection = _ABSENT if cell.projection is None else writer.weight(cell.projection)
    peepholes, norms = [_ABSENT] * 3, [_ABSENT] * 4
    options = schema.UnidirectionalSequenceLSTMOptionsT()
    options.fusedActivationFunction = schema.ActivationFunctionType.TANH
    options.timeMajor = cell.time_major
    inputs = [source, *weights, *peepholes, *biases, projection, _ABSENT, h, c, *norms]
    version = 2 if writer.mode == "hybrid" else None
    writer.op("UNIDIRECTIONAL_SEQUENCE_LSTM", inputs, result, options, version)
    if integer:
        _intermediates(writer, cell, _require(scale))
    _end(writer, cell, result, y)
    if last is not None:
        _last_cell_state(writer, cell, result, c, last)


def write_rnn(writer: Writer, cell: Cell, x: int, y: int, states: Sequence[int], last: int | None) -> None:
    """All steps of a plain RNN from ``x`` to ``y``, float32 activations; ``last``: where its last state goes."""
    batch = writer.file.shape(x)[1 - cell.time]
    h = writer.state((batch, cell.hidden), np.float32, None, "h")
    _begin(writer, [h], states)
    source, result = _ends(writer, cell, x, y)
    options = schema.SequenceRNNOptionsT()
    activation = schema.ActivationFunctionType
    options.fusedActivationFunction = activation.TANH if cell.kind == "rnn_tanh" else activation.RELU
    options.timeMajor = cell.time_major
    inputs = [source, writer.weight(cell.w_input), writer.weight(cell.w_hidden)]
    inputs += [writer.bias(cell.b_input + cell.b_hidden, None, cell.w_input), h]
    writer.op("UNIDIRECTIONAL_SEQUENCE_RNN", inputs, result, options, 2 if writer.mode == "hybrid" else None)
    _end(writer, cell, result, y)
    if last is not None:
        final = writer.step(result, cell.time, writer.file.shape(result)[cell.time] - 1)
        writer.op("RESHAPE", [final, writer.constant(writer.file.shape(last))], last, _reshape(writer, last))


def _begin(writer: Writer, variables: Sequence[int], states: Sequence[int]) -> None:
    """Set the variable tensors to the first states, or to zero."""
    for place, variable in enumerate(variables):
        shape = writer.file.shape(variable)
        if states:
            writer.copied(states[place], variable)
        elif writer.file.dtype(variable) == np.int16:  # for which TFLite Micro's FILL has no kernel
            writer.converted(writer.zeros(shape, writer.tensor(shape)), variable)
        else:
            writer.zeros(shape, variable)


def _ends(writer: Writer, cell: Cell, x: int, y: int) -> tuple[int, int]:
    """What the operator reads and writes: with their steps turned round where the layer runs backwards."""
    if not cell.reverse:
        return x, y
    file = writer.file
    return writer.reversed(x, cell.time), writer.tensor(file.shape(y), file.dtype(y), file.scale(y))


def _end(writer: Writer, cell: Cell, result: int, y: int) -> None:
    if result != y:
        writer.reversed(result, cell.time, y)


def _last_cell_state(writer: Writer, cell: Cell, result: int, c: int, last: int) -> None:
    """Read the state tensor after the operator ran: behind the last output, since delegates order operators by what they read."""
    file = writer.file
    batch, (width, hidden) = file.shape(c)[0], (cell.output, cell.hidden)
    final = writer.step(result, cell.time, file.shape(result)[cell.time] - 1)
    dtype, scale = file.dtype(c), file.scale(c)
    if writer.integer:
        real = writer.converted(final, writer.tensor((batch, width)))
        final = writer.converted(real, writer.tensor((batch, width), dtype, scale))
    options = schema.ConcatenationOptionsT()
    options.axis = 1
    both = writer.op("CONCATENATION", [final, c], writer.tensor((batch, width + hidden), dtype, scale), options)
    state = writer.tensor((batch, hidden), dtype, scale) if writer.integer else last
    writer.op("SLICE", [both, writer.constant([0, width]), writer.constant([batch, hidden])], state, schema.SliceOptionsT())
    if writer.integer:
        writer.converted(state, last)


def _intermediates(writer: Writer, cell: Cell, scale: Scale) -> None:
    """The integer kernel reads the scales of the gates, and of the hidden state before a projection, from empty tensors (as TFLite Micro
    asks)."""
    hidden = writer.ranges.int8("hidden") if cell.projection is not None else scale
    kinds: list[tuple[Any, Scale]] = [(np.int16, _GATE)] * 4 + [(np.int8, hidden)]
    tensors = [writer.tensor((0,), dtype, part) for dtype, part in kinds]
    writer.file.operators[writer.place - 1].intermediates = np.array(tensors, np.int32)


def _reshape(writer: Writer, y: int) -> Any:
    options = schema.ReshapeOptionsT()
    options.newShape = np.array(writer.file.shape(y), np.int32)
    return options


def _require(scale: Scale | None) -> Scale:
    assert scale is not None
    return scale
