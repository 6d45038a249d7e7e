"""A recurrent layer written into a TFLite graph: LSTM and plain RNN fused, GRU (and int8 RNN, which has no fused kernel) as a loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgeprune.tflite.file import TfliteFile
from edgeprune.tflite.ranges import Ranges
from edgeprune.tflite.recurrent.cell import Cell
from edgeprune.tflite.recurrent.fused import write_lstm, write_rnn
from edgeprune.tflite.recurrent.loop import write_loop
from edgeprune.tflite.recurrent.writer import Mode, Writer


@dataclass(frozen=True)
class Places:
    """The tensors at the ends of a layer.

    ``x``: the input sequence; ``y``: the output sequence; both int8 where the mode is.  ``states``: the first states (N, channels),
    float32; none where they are zero.  ``last``: the last cell state of an LSTM, the last hidden state of others, float32.  ``y`` and
    ``last`` are None where nothing reads them.
    """

    x: int
    y: int | None
    states: Sequence[int] = ()
    last: int | None = None


def write(file: TfliteFile, place: int, cell: Cell, ends: Places, name: str, mode: Mode = "float", ranges: Ranges | None = None) -> None:
    """Write ``cell`` before the operator at ``place``; the names of its tensors begin with ``name``.

    Every inference begins with the first states: TFLite keeps the state of fused operators from one inference to the next, so that
    operators before them set it.  ``ranges``: what the cell computes on real inputs, for int8.
    """
    writer = Writer(file, place, name, mode, ranges)
    fused = cell.kind == "lstm" or (cell.kind != "gru" and mode != "int8")
    if fused and ends.y is None:
        ends = replace(ends, y=_unread(writer, cell, ends.x))
    if cell.kind == "lstm":
        write_lstm(writer, cell, ends.x, _tensor(ends.y), ends.states, ends.last)
    elif fused:
        write_rnn(writer, cell, ends.x, _tensor(ends.y), ends.states, ends.last)
    else:
        write_loop(writer, cell, ends.x, ends.y, ends.states, ends.last)


def _unread(writer: Writer, cell: Cell, x: int) -> int:
    shape = (*writer.file.shape(x)[:2], cell.output)
    return writer.tensor(shape, np.int8 if writer.integer else np.float32, writer.scale("h"), "y")


def _tensor(y: int | None) -> int:
    assert y is not None
    return y
