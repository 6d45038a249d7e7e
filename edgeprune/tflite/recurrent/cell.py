"""One direction of one recurrent layer: its weights, and everything it computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

Array = np.ndarray[Any, Any]
Watch = Callable[[str, Array], Array]
"""Sees a named intermediate value and returns it."""

GATES: Final = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


@dataclass(frozen=True)
class Cell:
    """PyTorch's weights of one direction of one layer.

    ``kind``: a key of ``GATES``.  ``w_input``: (gates * H, I), ``w_hidden``: (gates * H, P), ``b_input`` and ``b_hidden``: (gates * H,),
    the gates in PyTorch's order (LSTM: input, forget, cell, output; GRU: reset, update, new).  ``projection``: (P, H) where the output has
    P < H channels.  ``time_major``: sequences are (T, N, channels), else (N, T, channels).  ``reverse``: from the last step to the first.
    """

    kind: str
    w_input: Array
    w_hidden: Array
    b_input: Array
    b_hidden: Array
    projection: Array | None = None
    time_major: bool = False
    reverse: bool = False

    @property
    def hidden(self) -> int:
        """Channels of the cell's own state, H."""
        return int(self.w_input.shape[0]) // GATES[self.kind]

    @property
    def output(self) -> int:
        """Channels of the output, P; H without a projection."""
        return int(self.w_hidden.shape[1])

    @property
    def time(self) -> int:
        """The dimension of a sequence that counts steps."""
        return 0 if self.time_major else 1

    def gates(self, values: Array) -> list[Array]:
        """Weights or biases by gate."""
        return np.split(values, GATES[self.kind])

    def run(self, x: Array, states: list[Array], watch: Watch) -> None:
        """Compute all steps on sequences ``x`` from ``states``, and show every intermediate value to ``watch`` by name."""
        steps = np.moveaxis(x, self.time, 0)
        batch = steps.shape[1]
        h = watch("h", states[0] if states else np.zeros((batch, self.output), np.float32))
        c = watch("c", states[1] if len(states) > 1 else np.zeros((batch, self.hidden), np.float32))
        step = {"lstm": self._lstm, "gru": self._gru}.get(self.kind, self._rnn)
        for now in watch("x", steps[::-1] if self.reverse else steps):
            h, c = step(now, h, c, watch)
            watch("h", h)

    def _lstm(self, x: Array, h: Array, c: Array, watch: Watch) -> tuple[Array, Array]:
        i, f, g, o = np.split(x @ self.w_input.T + self.b_input + h @ self.w_hidden.T + self.b_hidden, 4, axis=1)
        c = watch("c", sigmoid(f) * c + sigmoid(i) * np.tanh(g))
        h = watch("hidden", sigmoid(o) * np.tanh(c))
        return (h if self.projection is None else h @ self.projection.T), c

    def _gru(self, x: Array, h: Array, c: Array, watch: Watch) -> tuple[Array, Array]:
        both, size = 2 * self.hidden, self.hidden
        a, b = x @ self.w_input.T + self.b_input, h @ self.w_hidden.T + self.b_hidden
        gates = watch("gates", watch("gates_x", a[:, :both]) + watch("gates_h", b[:, :both]))
        r, z = sigmoid(gates[:, :size]), sigmoid(gates[:, size:])
        new = watch("new", watch("new_x", a[:, both:]) + watch("new_r", r * watch("new_h", b[:, both:])))
        n = np.tanh(new)
        return n + z * (h - n), c

    def _rnn(self, x: Array, h: Array, c: Array, watch: Watch) -> tuple[Array, Array]:
        new = watch("new", watch("new_x", x @ self.w_input.T + self.b_input) + watch("new_h", h @ self.w_hidden.T + self.b_hidden))
        return (np.tanh(new) if self.kind == "rnn_tanh" else np.maximum(new, 0)), c


def sigmoid(x: Array) -> Array:
    """The logistic function, without overflow."""
    result: Array = 0.5 * (1 + np.tanh(0.5 * x))
    return result
