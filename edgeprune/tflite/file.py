"""A TFLite file taken apart by the schema's object API, to be read and rewritten."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgeprune.errors import ExportError
from edgeprune.tflite import schema as flatbuffer

_NAMES: Final[dict[int, str]] = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
_DTYPES: Final[dict[int, Any]] = {
    schema.TensorType.FLOAT32: np.float32,
    schema.TensorType.FLOAT16: np.float16,
    schema.TensorType.INT32: np.int32,
    schema.TensorType.BOOL: np.bool_,
    schema.TensorType.INT16: np.int16,
    schema.TensorType.INT8: np.int8,
    schema.TensorType.INT64: np.int64,
}
_CODES: Final[dict[Any, int]] = {np.dtype(dtype): code for code, dtype in _DTYPES.items()}


@dataclass(frozen=True)
class Scale:
    """How integers stand for real numbers: ``(integer - zero) * scale``."""

    scale: float
    zero: int = 0


class TfliteFile:
    """One graph of a TFLite file, the first unless said otherwise: ``operators`` in the order they run, ``tensors`` by number; ``title``:
    what messages call it.  ``content``: the file's bytes, or the ``ModelT`` they were read into, which is then changed in place.

    Raises :class:`ExportError` when ``content`` is not a TFLite file.
    """

    def __init__(self, content: Any, name: str = "the file", graph: int = 0) -> None:
        self.title = name
        try:
            self.model: Any = flatbuffer.read(content) if isinstance(content, bytes) else content
            self.graph: Any = self.model.subgraphs[graph]
        except ExportError as error:
            raise ExportError(f"{name} cannot be read: {error.message}", remedy=error.remedy) from error

    @property
    def operators(self) -> list[Any]:
        """The operators, in the order they run."""
        if self.graph.operators is None:
            self.graph.operators = []
        operators: list[Any] = self.graph.operators
        return operators

    def operation(self, operator: Any) -> str:
        """What an operator computes: ``CONV_2D``."""
        code = self.model.operatorCodes[operator.opcodeIndex]
        return _NAMES[max(code.builtinCode, code.deprecatedBuiltinCode)]

    def name(self, tensor: int) -> str:
        """A tensor's name."""
        text: str = (self.graph.tensors[tensor].name or b"").decode(errors="replace")
        return text or f"tensor {tensor}"

    def shape(self, tensor: int) -> tuple[int, ...]:
        """A tensor's shape."""
        found = self.graph.tensors[tensor].shape
        return tuple(int(size) for size in found) if found is not None else ()

    def is_float(self, tensor: int) -> bool:
        """Whether a tensor holds float32 or float16."""
        return self.graph.tensors[tensor].type in (schema.TensorType.FLOAT32, schema.TensorType.FLOAT16)

    def is_constant(self, tensor: int) -> bool:
        """Whether the file holds a tensor's values."""
        data = self.model.buffers[self.graph.tensors[tensor].buffer].data
        return data is not None and len(data) > 0

    def constant(self, tensor: int) -> np.ndarray[Any, Any] | None:
        """What a constant holds, in its shape; of a sparse one the values that are stored, in a row. None when it is computed, or of a
        type other than float32, float16, int64, int32 and int8."""
        found = self.graph.tensors[tensor]
        if not self.is_constant(tensor) or found.type not in _DTYPES:
            return None
        data = self.model.buffers[found.buffer].data
        values = np.frombuffer(np.asarray(data, np.uint8).tobytes(), _DTYPES[found.type])
        return values if found.sparsity is not None else values.reshape(self.shape(tensor))

    def add_operator(
        self,
        place: int,
        operation: str,
        inputs: list[int],
        outputs: list[int],
        options: tuple[str, Any] | None = None,
        version: int = 1,
    ) -> Any:
        """Insert an operator before the one at ``place``, and return it.  ``options``: the name of their type, and they themselves."""
        operator = schema.OperatorT()
        operator.opcodeIndex = self._code(operation, version)
        operator.inputs, operator.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
        if options is not None:
            operator.builtinOptionsType, operator.builtinOptions = getattr(schema.BuiltinOptions, options[0]), options[1]
        self.operators.insert(place, operator)
        return operator

    def turn_into(self, operator: Any, operation: str, inputs: list[int]) -> None:
        """Make an operator another one, of version 1 and without options, of the same outputs."""
        operator.opcodeIndex, operator.inputs = self._code(operation, 1), np.array(inputs, np.int32)
        operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.NONE, None

    def _code(self, operation: str, version: int) -> int:
        wanted = getattr(schema.BuiltinOperator, operation)
        for index, code in enumerate(self.model.operatorCodes):
            if max(code.builtinCode, code.deprecatedBuiltinCode) == wanted and code.version == version:
                return index
        code = schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = wanted, min(wanted, 127), version
        self.model.operatorCodes.append(code)
        return len(self.model.operatorCodes) - 1

    def add_tensor(self, like: int, name: str, shape: tuple[int, ...], values: np.ndarray[Any, Any] | None = None) -> int:
        """A new tensor of the type of ``like``, or of ``values`` (float32 or int32), which it then holds; its number."""
        tensor = self.new_tensor(name, shape, np.float32 if values is None else values.dtype, values)
        if values is None:
            self.graph.tensors[tensor].type = self.graph.tensors[like].type
        return tensor

    def new_tensor(
        self, name: str, shape: tuple[int, ...], dtype: Any, values: np.ndarray[Any, Any] | None = None, scale: Scale | None = None
    ) -> int:
        """A new tensor of a numpy ``dtype``, with ``values`` where it is constant; its number."""
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.hasRank = name.encode(), np.array(shape, np.int32), True
        tensor.type, tensor.buffer = _CODES[np.dtype(dtype)], 0
        if values is not None:
            tensor.buffer = self.add_buffer(values.astype(dtype, copy=False))
        if scale is not None:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = np.array([scale.scale], np.float32)
            tensor.quantization.zeroPoint = np.array([scale.zero], np.int64)
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def scale(self, tensor: int) -> Scale | None:
        """The one scale of an int8 or int16 tensor; None for others."""
        found = self.graph.tensors[tensor].quantization
        if found is None or found.scale is None or len(found.scale) != 1:
            return None
        return Scale(float(found.scale[0]), int(found.zeroPoint[0]) if found.zeroPoint is not None else 0)

    def dtype(self, tensor: int) -> Any:
        """The numpy type of a tensor's elements; None for types that numpy lacks."""
        return _DTYPES.get(self.graph.tensors[tensor].type)

    def add_graph(self, name: str) -> TfliteFile:
        """A new graph of the same file, which control flow may run; its place is :attr:`place`."""
        graph = schema.SubGraphT()
        graph.tensors, graph.operators, graph.name = [], [], name.encode()
        graph.inputs = graph.outputs = np.array([], np.int32)
        self.model.subgraphs.append(graph)
        return TfliteFile(self.model, self.title, len(self.model.subgraphs) - 1)

    @property
    def place(self) -> int:
        """The number of this graph in the file."""
        return next(place for place, graph in enumerate(self.model.subgraphs) if graph is self.graph)

    def add_buffer(self, values: np.ndarray[Any, Any]) -> int:
        """A new buffer's number."""
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        return len(self.model.buffers) - 1

    def pack(self) -> bytes:
        """The file's bytes, without what nothing refers to any more."""
        return flatbuffer.pack(self.model)
