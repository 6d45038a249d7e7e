"""The least and the largest of values that are watched, and the scales by which integers hold them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from edgeprune.tflite.file import Scale

Array = np.ndarray[Any, Any]
_LEAST: Final = 1e-6


class Ranges:
    """The least and the largest of everything of floating point by name, over all that was watched; NaN counts as infinite."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[float, float]] = {}

    def __call__(self, name: str, values: Array) -> Array:
        """Take in the values that ``name`` has once, and return them."""
        if values.dtype.kind == "f" and values.size:
            low, high = self._seen.get(name, (math.inf, -math.inf))
            self._seen[name] = (min(low, _or(float(values.min()), -math.inf)), max(high, _or(float(values.max()), math.inf)))
        return values

    def see(self, tensors: Mapping[str, Array]) -> None:
        """Take in the tensors of one inference."""
        for name, values in tensors.items():
            self(name, values)

    def of(self, name: str) -> tuple[float, float]:
        """Of one name; (0, 0) where it was not seen."""
        return self._seen.get(name, (0.0, 0.0))

    def int8(self, name: str) -> Scale:
        """The scale by which int8 holds what was seen of ``name``, and zero."""
        low, high = self._seen[name]
        low, high = min(low, 0.0), max(high, 0.0)
        scale = max(high - low, _LEAST) / 255
        return Scale(scale, int(np.clip(round(-128 - low / scale), -128, 127)))

    def int16(self, name: str) -> Scale:
        """The least power of two, down to 2 ** -15, by which int16 holds it: what the integer LSTM asks of its cell's state."""
        largest = max(*map(abs, self._seen[name]), _LEAST)
        return Scale(2.0 ** max(-15, math.ceil(math.log2(largest / 32767))))


def _or(value: float, otherwise: float) -> float:
    return otherwise if math.isnan(value) else value
