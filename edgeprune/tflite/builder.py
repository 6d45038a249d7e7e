"""TFLite files put together operator by operator, straight into the flatbuffer (the converter would take seconds)."""

from __future__ import annotations

from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema


class Builder:
    """A float32 graph put together operator by operator; weights are seeded random numbers."""

    def __init__(self) -> None:
        self.buffers: list[Any] = [schema.BufferT()]
        self.tensors: list[Any] = []
        self.operators: list[Any] = []
        self.codes: list[Any] = []
        self.random = np.random.default_rng(0)

    def tensor(self, shape: tuple[int, ...], data: np.ndarray | None = None) -> int:
        tensor = schema.TensorT()
        tensor.shape = np.array(shape, np.int32)
        tensor.type = schema.TensorType.FLOAT32 if data is None or data.dtype == np.float32 else schema.TensorType.INT32
        tensor.buffer = 0
        tensor.name = f"t{len(self.tensors)}".encode()
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(data.tobytes(), np.uint8)
            tensor.buffer = len(self.buffers)
            self.buffers.append(buffer)
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def weights(self, *shape: int) -> int:
        return self.tensor(shape, self.random.standard_normal(shape).astype(np.float32) * 0.1)

    def op(self, name: str, inputs: list[int], output: int, options_type: str | None = None, options: Any = None) -> None:
        code = schema.OperatorCodeT()
        builtin = getattr(schema.BuiltinOperator, name)
        code.builtinCode, code.deprecatedBuiltinCode, code.version = builtin, min(builtin, 127), 1
        operator = schema.OperatorT()
        operator.opcodeIndex, operator.inputs, operator.outputs = len(self.codes), np.array(inputs, np.int32), np.array([output], np.int32)
        if options is not None:
            operator.builtinOptionsType, operator.builtinOptions = getattr(schema.BuiltinOptions, options_type or ""), options
        self.codes.append(code)
        self.operators.append(operator)

    def move(self, name: str, x: int, shape: tuple[int, ...], order: tuple[int, ...] | None = None) -> int:
        """``x`` in another shape, or in another ``order`` of its dimensions."""
        result = self.tensor(shape)
        if order is None:
            options = schema.ReshapeOptionsT()
            options.newShape = np.array(shape, np.int32)
            self.op(name, [x, self.tensor((len(shape),), np.array(shape, np.int32))], result, "ReshapeOptions", options)
        else:
            where = self.tensor((len(order),), np.array(order, np.int32))
            self.op(name, [x, where], result, "TransposeOptions", schema.TransposeOptionsT())
        return result

    def build(self, inputs: list[int], outputs: list[int]) -> bytes:
        graph = schema.SubGraphT()
        graph.tensors, graph.operators, graph.name = self.tensors, self.operators, b"main"
        graph.inputs, graph.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
        model = schema.ModelT()
        model.version, model.description = 3, b"single kernel"
        model.operatorCodes, model.subgraphs, model.buffers = self.codes, [graph], self.buffers
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())
