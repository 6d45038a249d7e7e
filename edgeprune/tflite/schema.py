"""TFLite files as objects of the schema (tensorflow/lite/schema/schema.fbs, version 3): read, changed, packed again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgeprune.errors import ExportError

_ALIGNMENT = 16  # of every buffer: ``force_align`` in the schema, which the generated Python does not follow
_OPERATORS = {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}


class _Buffer(schema.BufferT):  # type: ignore[misc]
    """Constant data that begins at a multiple of 16 bytes: kernels load it with aligned instructions."""

    def Pack(self, builder: Any) -> Any:
        if self.data is None or not len(self.data):
            schema.BufferStart(builder)
            return schema.BufferEnd(builder)
        data = np.ascontiguousarray(self.data, dtype=np.uint8)
        builder.StartVector(1, data.size, _ALIGNMENT)
        builder.head -= data.size
        builder.Bytes[builder.head : builder.head + data.size] = data.tobytes()
        vector = builder.EndVector()
        schema.BufferStart(builder)
        schema.BufferAddData(builder, vector)
        return schema.BufferEnd(builder)


def read(content: bytes) -> Any:
    """The file as a ``ModelT``; its constants are views of ``content``.  Raises :class:`ExportError` when it is no TFLite file."""
    if content[4:8] != b"TFL3":
        raise ExportError("the file is not a TFLite model", remedy="Give a TFLite file: edgeprune export writes one.")
    try:
        model = schema.ModelT.InitFromPackedBuf(content, 0)
        for buffer in model.buffers:
            if buffer.offset > 1:  # its data stand behind the flatbuffer
                buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
        _require_whole(model)
    except Exception as error:
        raise ExportError(f"the TFLite model is damaged: {error}", remedy="Export or copy it again.") from error
    return model


def _require_whole(model: Any) -> None:
    """Raises :class:`IndexError` where a number in the model names nothing in it."""

    def require(what: str, indices: Iterable[int] | None, count: int, least: int = 0) -> None:
        for index in () if indices is None else indices:
            if not least <= index < count:
                raise IndexError(f"it refers to {what} {index}, and has {count}")

    if not model.subgraphs:
        raise IndexError("it has no graph")
    require("buffer", (entry.buffer for entry in model.metadata or ()), len(model.buffers))
    for graph in model.subgraphs:
        count = len(graph.tensors or ())
        require("buffer", (tensor.buffer for tensor in graph.tensors or ()), len(model.buffers))
        require("tensor", graph.inputs, count)
        require("tensor", graph.outputs, count)
        for operator in graph.operators or ():
            require("operator", [operator.opcodeIndex], len(model.operatorCodes))
            require("tensor", operator.inputs, count, -1)
            require("tensor", operator.outputs, count)


def pack(model: Any) -> bytes:
    """The file of a ``ModelT``, without the data that nothing reads; the same model gives the same bytes."""
    read_buffers = _read_buffers(model)
    kept, model.buffers = model.buffers, []
    for index, buffer in enumerate(kept):
        aligned = _Buffer()
        aligned.data = buffer.data if index in read_buffers else None
        model.buffers.append(aligned)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    model.buffers = kept
    return bytes(builder.Output())


def _read_buffers(model: Any) -> set[int]:
    """Buffers of tensors that an operator or the outside reads, and of metadata."""
    found = {entry.buffer for entry in model.metadata or ()}
    for graph in model.subgraphs:
        used = {int(index) for operator in graph.operators or () for index in operator.inputs}
        used |= {int(index) for index in (*graph.inputs, *graph.outputs)}
        found |= {graph.tensors[index].buffer for index in used if index >= 0}
    return found


def operators(model: Any) -> Iterator[tuple[str, int, Any, Any]]:
    """Name, version, operator and subgraph of every operator, in the order of execution."""
    for graph in model.subgraphs:
        for operator in graph.operators or ():
            code = model.operatorCodes[operator.opcodeIndex]
            number = max(code.builtinCode, code.deprecatedBuiltinCode)
            yield _OPERATORS.get(number, str(number)), code.version, operator, graph


def text(name: bytes | str | None) -> str:
    """A name in the file as text."""
    return name.decode(errors="replace") if isinstance(name, bytes) else (name or "")


def metadata(model: Any, name: str) -> bytes | None:
    """The content of the metadata entry called ``name``, or None."""
    for entry in model.metadata or ():
        if text(entry.name) == name:
            data = model.buffers[entry.buffer].data
            return None if data is None else bytes(bytearray(data))
    return None


def set_metadata(model: Any, name: str, content: bytes) -> None:
    """Put ``content`` into the metadata entry called ``name``."""
    data = np.frombuffer(content, dtype=np.uint8)
    for entry in model.metadata or ():
        if text(entry.name) == name:
            model.buffers[entry.buffer].data = data
            return
    entry, buffer = schema.MetadataT(), schema.BufferT()
    entry.name, entry.buffer, buffer.data = name, len(model.buffers), data
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or ()), entry]


def constant_operators(model: Any) -> list[str]:
    """Operators whose inputs are all constants: work left to the device at every load or inference.

    ``DEQUANTIZE`` and ``DENSIFY`` of stored weights are not counted: they are how weights are stored.
    """
    found = []
    for name, _, operator, graph in operators(model):
        data = [model.buffers[graph.tensors[index].buffer].data for index in operator.inputs if index >= 0]
        if data and all(value is not None and len(value) for value in data) and name not in ("DEQUANTIZE", "DENSIFY"):
            found.append(f"{name} {text(graph.tensors[operator.outputs[0]].name)}")
    return found
