"""A TFLite file as a microcontroller's firmware sees it: operators, tensors, inputs and outputs."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, Final, TypedDict

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgeprune.errors import ExportError
from edgeprune.tflite import schema as flatbuffer

_TYPES: Final[dict[int, str]] = {code: name.lower() for name, code in vars(schema.TensorType).items() if isinstance(code, int)}

ELEMENT_BYTES: Final = {"float64": 8, "int64": 8, "uint64": 8, "float32": 4, "int32": 4, "uint32": 4, "float16": 2, "int16": 2}
"""Of one element; all other types take one byte."""


class TensorDescription(TypedDict):
    """A tensor as its user needs to know it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    scales: tuple[float, ...]
    zero_points: tuple[int, ...]


@dataclass(frozen=True)
class Tensor:
    """``dtype``: as numpy names it. ``scales``, ``zero_points``: one each, or one by channel; empty where it is not quantized."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    constant: bool
    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    sparse: bool

    @property
    def bytes(self) -> int:
        """Of its content."""
        return prod(self.shape) * ELEMENT_BYTES.get(self.dtype, 1)

    def describe(self) -> TensorDescription:
        """What its user must know, as plain JSON values."""
        return {
            "name": self.name,
            "shape": self.shape,
            "dtype": self.dtype,
            "scales": self.scales,
            "zero_points": self.zero_points,
        }


@dataclass(frozen=True)
class Operator:
    """``name``: TFLite's, such as ``CONV_2D``, or a custom operator's own. ``node``: its place in its subgraph, as runtimes count.
    ``inputs``: None where an optional one is left out. ``times``: how often one inference runs it: in a loop, as often as its graph."""

    name: str
    custom: bool
    version: int
    subgraph: int
    node: int
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    options: Any
    times: int = 1

    @property
    def place(self) -> str:
        """What it is and where, for messages: converters join names of tensors to long ones, of which the last part says most."""
        tensor = self.outputs[0].name.rpartition(";")[2] if self.outputs else ""
        return f"{self.name} (node {self.node}{f' of subgraph {self.subgraph}' if self.subgraph else ''}, which makes {tensor!r})"


@dataclass(frozen=True)
class MicroGraph:
    """All operators of all subgraphs in their order; the inputs and outputs of the first subgraph; the tensors of all."""

    operators: tuple[Operator, ...]
    tensors: tuple[Tensor, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @property
    def resource_variables(self) -> int:
        """How many variables keep their values from one inference to the next: each has a name, and may have several handles."""
        handles = [operator.options for operator in self.operators if operator.name == "VAR_HANDLE"]
        return len({(flatbuffer.text(options.container), flatbuffer.text(options.sharedName)) for options in handles})


def read_graph(content: bytes, name: str) -> MicroGraph:
    """The graph of a TFLite file.  ``name``: what messages call it.  Raises :class:`ExportError` when it is not one."""
    try:
        return _graph(flatbuffer.read(content))
    except ExportError as error:
        raise ExportError(f"{name}: {error.message}", remedy="Give a whole .tflite file.") from error
    except Exception as error:
        raise ExportError(f"{name}: the TFLite model is damaged: {error}", remedy="Export it again.") from error


def _graph(model: Any) -> MicroGraph:
    parts = {id(part): place for place, part in enumerate(model.subgraphs)}
    tensors = [[_tensor(tensor, model.buffers) for tensor in part.tensors] for part in model.subgraphs]
    operators: list[Operator] = []
    times = _times(model)
    for name, version, entry, part in flatbuffer.operators(model):
        place, custom = parts[id(part)], name == "CUSTOM"
        own = tensors[place]
        node = sum(operator.subgraph == place for operator in operators)
        read = tuple(own[index] if index >= 0 else None for index in _items(entry.inputs))
        made = tuple(own[index] for index in _items(entry.outputs))
        title = flatbuffer.text(model.operatorCodes[entry.opcodeIndex].customCode) if custom else name
        operators.append(Operator(title, custom, int(version), place, node, read, made, entry.builtinOptions, times[place]))
    first = model.subgraphs[0]
    ends = [tuple(tensors[0][index] for index in _items(side)) for side in (first.inputs, first.outputs)]
    return MicroGraph(tuple(operators), tuple(tensor for own in tensors for tensor in own), *ends)


def _times(model: Any) -> list[int]:
    """How often one inference runs each graph; a loop whose steps the file does not give counts as one step."""
    times = [1] * len(model.subgraphs)
    for name, _, entry, part in flatbuffer.operators(model):
        if name == "WHILE":
            outer = times[next(place for place, graph in enumerate(model.subgraphs) if graph is part)]
            condition, body = entry.builtinOptions.condSubgraphIndex, entry.builtinOptions.bodySubgraphIndex
            steps = _steps(model, model.subgraphs[condition])
            times[condition], times[body] = outer * (steps + 1), outer * steps
    return times


def _steps(model: Any, condition: Any) -> int:
    """The constant that a loop's counter is compared with."""
    for name, _, entry, part in flatbuffer.operators(model):
        if part is condition and name == "LESS":
            data = model.buffers[part.tensors[int(entry.inputs[1])].buffer].data
            return int(np.frombuffer(bytes(bytearray(data)), np.int32)[0]) if data is not None and len(data) == 4 else 1
    return 1


def _tensor(tensor: Any, buffers: Any) -> Tensor:
    found = tensor.quantization
    content = buffers[tensor.buffer]
    return Tensor(
        name=flatbuffer.text(tensor.name),
        shape=tuple(int(size) for size in _items(tensor.shape)),
        dtype=_TYPES[tensor.type],
        constant=(content.data is not None and len(content.data) > 0) or bool(content.offset),
        scales=tuple(float(value) for value in _items(found.scale)) if found else (),
        zero_points=tuple(int(value) for value in _items(found.zeroPoint)) if found else (),
        sparse=tensor.sparsity is not None,
    )


def _items(value: Any) -> Any:
    return () if value is None else value
