"""Small TFLite files, made in a millisecond through the schema's object API."""

from __future__ import annotations

from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema


def _pack(code: int, tensors: list[tuple[list[int], int, bytes]], inputs: list[int], read: list[int], options: tuple[int, Any]) -> bytes:
    """A model of one operation, whose output is the last tensor.  ``tensors``: (shape, type, constant content or nothing)."""
    graph = schema.SubGraphT()
    model = schema.ModelT()
    model.version = 3
    graph.tensors, model.buffers = [], [schema.BufferT()]
    for index, (shape, kind, content) in enumerate(tensors):
        tensor, buffer = schema.TensorT(), schema.BufferT()
        tensor.name, tensor.shape, tensor.type = f"tensor_{index}", shape, kind
        if content:
            buffer.data = np.frombuffer(content, dtype=np.uint8)
            tensor.buffer = len(model.buffers)
            model.buffers.append(buffer)
        graph.tensors.append(tensor)
    operation, operator_code = schema.OperatorT(), schema.OperatorCodeT()
    operator_code.builtinCode = operator_code.deprecatedBuiltinCode = code
    operator_code.version = 1
    operation.inputs, operation.outputs = read, [len(tensors) - 1]
    operation.builtinOptionsType, operation.builtinOptions = options
    graph.inputs, graph.outputs, graph.operators = inputs, [len(tensors) - 1], [operation]
    model.operatorCodes, model.subgraphs = [operator_code], [graph]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def dense_tflite(weights: np.ndarray[Any, Any]) -> bytes:
    """A fully-connected layer without bias: (1, in) -> (1, out), for float ``weights`` of shape (out, in)."""
    weights = np.ascontiguousarray(weights, dtype=np.float32)
    wide, narrow = weights.shape
    real = schema.TensorType.FLOAT32
    options = schema.FullyConnectedOptionsT()
    tensors = [([1, narrow], real, b""), ([wide, narrow], real, weights.tobytes()), ([1, wide], real, b"")]
    return _pack(schema.BuiltinOperator.FULLY_CONNECTED, tensors, [0], [0, 1, -1], (schema.BuiltinOptions.FullyConnectedOptions, options))


def crashing_tflite() -> bytes:
    """A well-formed file that kills the process that loads it.

    It is an IF whose branches are the graph itself: the runtime follows it until its stack ends.
    """
    options = schema.IfOptionsT()
    options.thenSubgraphIndex = options.elseSubgraphIndex = 0
    truth = schema.TensorType.BOOL
    return _pack(schema.BuiltinOperator.IF, [([1], truth, b"\1"), ([1], truth, b"")], [], [0], (schema.BuiltinOptions.IfOptions, options))
