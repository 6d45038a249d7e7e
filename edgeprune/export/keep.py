"""Operators that quantization has to leave float, and why.

An int8 tensor has 255 steps from its least to its largest value.  Where a mask of -1e9 or of minus infinity stands beside scores, or pixels
beside probabilities, one step is larger than what matters: such operators stay float, which costs little, since they only move or add.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from edgeprune.tflite.file import TfliteFile
from edgeprune.tflite.ranges import Ranges

Array = np.ndarray[Any, Any]

WIDEST: Final = 1e6
"""The largest magnitude of a tensor that eight bits may hold."""

WIDEST_SOFTMAX: Final = 64.0
"""The widest range of a softmax's masked scores: a step of a quarter, 13 % in a probability."""

MIXED: Final = 16.0
"""How many times larger one part of an output may be than another that shares its scale."""

_HALF: Final = (float(np.finfo(np.float16).tiny), float(np.finfo(np.float16).max))

MOVES: Final = frozenset({
    "BROADCAST_TO", "EXPAND_DIMS", "GATHER", "GATHER_ND", "PAD", "RESHAPE", "REVERSE_V2", "SLICE", "SPLIT", "SPLIT_V", "SQUEEZE",
    "STRIDED_SLICE", "TILE", "TRANSPOSE", "UNPACK",
})  # fmt: skip
"""Operators that only move values."""
_JOINS: Final = frozenset({"CONCATENATION", "PACK"})
_ARITHMETIC: Final = frozenset({"ADD", "DIV", "MUL", "SUB"})
_CHOICES: Final = frozenset({"MAXIMUM", "MINIMUM", "SELECT", "SELECT_V2"})
_FLOAT_UP_TO_2_14: Final = frozenset({"DIV", "SQRT"})
_CLAMPS: Final = frozenset({"MAXIMUM", "MINIMUM", "PADV2"})
"""Their constants have the scale of their output, which cuts off what lies outside: no harm there."""


def float_for_int8(content: bytes, ranges: Ranges, *, integer_io: bool) -> dict[str, str]:
    """Why operators of a float TFLite file must stay float in its int8 form, by the names of their first outputs."""
    return _Int8(TfliteFile(content), ranges).kept(integer_io)


Aliases = Mapping[str, Sequence[str]]
"""What the user calls tensors besides their own names."""


def aliases_of(content: bytes, names: Sequence[str]) -> Aliases:
    """The ``names`` of a file's outputs, in order, for every tensor that becomes one: where it is computed, and where it is then moved."""
    file, found = TfliteFile(content), dict[str, list[str]]()
    makers = {int(made): operator for operator in file.operators for made in operator.outputs}
    for tensor, name in zip(map(int, file.graph.outputs), names, strict=True):
        found.setdefault(file.name(tensor), []).append(name)
        while tensor in makers and file.operation(makers[tensor]) in MOVES:
            tensor = int(makers[tensor].inputs[0])
            found.setdefault(file.name(tensor), []).append(name)
    return found


def named(pattern: str, tensor: str, aliases: Aliases) -> bool:
    """Whether a regular expression is found in a tensor's name, or in what the user calls it."""
    return any(re.search(pattern, name) for name in (tensor, *aliases.get(tensor, ())) if name)


def float_for_fp16(content: bytes) -> dict[str, str]:
    """Why operators must keep float32 weights: float16 holds magnitudes from 6e-5 to 65504."""
    file, found = TfliteFile(content), {}
    for operator in file.operators:
        for tensor in _floats(file, operator.inputs):
            values = file.constant(tensor)
            largest = 0.0 if values is None or not values.size else float(np.abs(values).max())
            if largest > _HALF[1] or 0.0 < largest < _HALF[0]:
                found[file.name(int(operator.outputs[0]))] = f"its constant of {largest:.3g} does not fit float16"
    return found


def _floats(file: TfliteFile, tensors: Iterable[int]) -> list[int]:
    return [int(tensor) for tensor in tensors if tensor >= 0 and file.is_float(int(tensor))]


class _Int8:
    def __init__(self, file: TfliteFile, ranges: Ranges) -> None:
        self.file, self.ranges = file, ranges
        self.maker = {int(tensor): operator for operator in file.operators for tensor in operator.outputs}

    def kept(self, integer_io: bool) -> dict[str, str]:
        """The operators, in the order they run."""
        why: dict[int, str] = {}
        for operator in self.file.operators:
            reason = self._reason(operator)
            if reason:
                why[id(operator)] = reason
        for operator in self.file.operators:
            if self._operation(operator) in ("SOFTMAX", "LOG_SOFTMAX"):
                scores = int(operator.inputs[0])
                for found in self._masked(scores):
                    reason = f"its masked scores are {self._width(scores):.3g} wide"
                    why.setdefault(id(found), reason)
                    why.setdefault(id(operator), reason)
        if not integer_io:
            for output in self.file.graph.outputs:
                for found in self._mixed(int(output)):
                    why.setdefault(id(found), "its parts are of very different sizes")
        return {self.file.name(int(entry.outputs[0])): why[id(entry)] for entry in self.file.operators if id(entry) in why}

    def _operation(self, operator: Any) -> str:
        return self.file.operation(operator)

    def _range(self, tensor: int) -> tuple[float, float]:
        values = self.file.constant(tensor)
        if values is not None and values.size:
            return float(values.min()), float(values.max())
        return self.ranges.of(self.file.name(tensor))

    def _peak(self, tensor: int) -> float:
        return max(abs(value) for value in self._range(tensor))

    def _width(self, tensor: int) -> float:
        low, high = self._range(tensor)
        return high - low

    def _reason(self, operator: Any) -> str | None:
        operation = self._operation(operator)
        if operation in _FLOAT_UP_TO_2_14 and _floats(self.file, operator.outputs):
            return "TensorFlow Lite up to 2.14 has no int8 kernel for it"
        clamps = operation in _CLAMPS
        for tensor in _floats(self.file, (*operator.inputs, *operator.outputs)):
            harmless = (clamps and self.file.is_constant(tensor)) or self._pads_a_pool(tensor)
            if not harmless and not self._peak(tensor) <= WIDEST:
                return f"{self.file.name(tensor)} reaches {self._peak(tensor):.3g}"
        return None

    def _pads_a_pool(self, tensor: int) -> bool:
        """Whether it is what a maximum is taken over, padded with the least number there is."""
        readers = [entry for entry in self.file.operators if tensor in list(entry.inputs)]
        maker = self.maker.get(tensor)
        padded = maker is not None and self._operation(maker) == "PADV2"
        return padded and bool(readers) and all(self._operation(entry) == "MAX_POOL_2D" for entry in readers)

    def _masked(self, tensor: int) -> list[Any]:
        """The operators that made a tensor so wide by adding or choosing, back to what is not."""
        maker = self.maker.get(tensor)
        if maker is None or self._width(tensor) <= WIDEST_SOFTMAX:
            return []
        operation = self._operation(maker)
        before = [item for source in _floats(self.file, maker.inputs) for item in self._masked(source)]
        if operation in _ARITHMETIC | _CHOICES:
            return [maker, *before]
        return [maker, *before] if before and operation in MOVES else []

    def _mixed(self, tensor: int) -> list[Any]:
        """The operators from where parts of different sizes are joined to this output; none when they are not."""
        maker = self.maker.get(tensor)
        if maker is None:
            return []
        operation, sources = self._operation(maker), _floats(self.file, maker.inputs)
        if operation in _JOINS:
            before = [item for source in sources for item in self._mixed(source)]
            return [maker, *before] if before or _uneven(self._peak(source) for source in sources) else []
        computed = [source for source in sources if not self.file.is_constant(source)]
        if len(computed) != 1 or operation not in MOVES | _ARITHMETIC:
            return []
        before = self._mixed(computed[0])
        constants = [self.file.constant(source) for source in sources if source != computed[0]]
        stretched = any(values is not None and _uneven(np.abs(values).ravel().tolist()) for values in constants)
        return [maker, *before] if before or (operation in _ARITHMETIC and stretched) else []


def _uneven(sizes: Iterable[float]) -> bool:
    found = [size for size in sizes if size > 0.0]
    return len(found) > 1 and max(found) > MIXED * min(found)
