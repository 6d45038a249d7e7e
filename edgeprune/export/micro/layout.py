"""Moves that a TFLite file can do without: transposes that cancel out, or that stand before a mean.

Converters keep PyTorch's order of dimensions at the edges of a graph by transposes.  On a microcontroller each takes time, code and arena.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgeprune.export import flatbuffer

_MOVES = ("TRANSPOSE", "RESHAPE", "EXPAND_DIMS", "SQUEEZE")


def without_moves(content: bytes) -> bytes:
    """The TFLite file with every run of transposes and reshapes that keeps the order in memory as one reshape (or none), and without the
    transpose before a mean, whose axes are told in the order before.  It computes the same; the same file gives the same bytes."""
    model = flatbuffer.read(content)
    changed = [_Mover(model, graph).run() for graph in model.subgraphs]
    if not any(changed):
        return content
    for place, graph in enumerate(model.subgraphs):
        _drop_unread(model, graph, place)
    return flatbuffer.pack(model)


def _drop_unread(model: Any, graph: Any, place: int) -> None:
    """Take out the tensors that nothing reads or makes: each has its struct in the arena."""
    ends = [graph.inputs, graph.outputs]
    used = sorted({int(index) for side in (*ends, *(s for o in graph.operators for s in (o.inputs, o.outputs))) for index in side} - {-1})
    new = {old: index for index, old in enumerate(used)} | {-1: -1}

    def renumbered(indices: Any) -> Any:
        return np.array([new[int(index)] for index in indices], np.int32)

    graph.tensors = [graph.tensors[index] for index in used]
    graph.inputs, graph.outputs = renumbered(graph.inputs), renumbered(graph.outputs)
    for operator in graph.operators:
        operator.inputs, operator.outputs = renumbered(operator.inputs), renumbered(operator.outputs)
    for signature in model.signatureDefs or ():
        if signature.subgraphIndex == place:
            for entry in (*signature.inputs, *signature.outputs):
                entry.tensorIndex = new[entry.tensorIndex]


class _Mover:
    def __init__(self, model: Any, graph: Any) -> None:
        self.model, self.graph = model, graph
        self.names = {id(entry): name for name, _, entry, part in flatbuffer.operators(model) if part is graph}

    def run(self) -> bool:
        """Whether anything was changed."""
        changed = False
        for operator in list(self.graph.operators or ()):
            if operator in self.graph.operators and self.names[id(operator)] in _MOVES:
                changed |= self._join(operator)
        for operator in list(self.graph.operators or ()):
            if self.names[id(operator)] == "MEAN":
                changed |= self._lift_mean(operator)
        return changed

    def _join(self, first: Any) -> bool:
        """Replace the longest run of moves from ``first`` that keeps the order in memory."""
        order = np.arange(int(np.prod(self._shape(first.inputs[0]))))
        moved, run, best = order.reshape(self._shape(first.inputs[0])), [first], 0
        while True:
            moved = self._moved(run[-1], moved)
            if moved is None:
                break
            if np.array_equal(moved.ravel(), order) and any(self.names[id(entry)] == "TRANSPOSE" for entry in run):
                best = len(run)
            following = self._only_reader(run[-1].outputs[0])
            if following is None or self.names[id(following)] not in _MOVES:
                break
            run.append(following)
        if not best:
            return False
        self._replace(run[:best])
        return True

    def _moved(self, operator: Any, values: Any) -> Any:
        """The values as the operator lays them out; None when its shape is not constant."""
        if self.names[id(operator)] == "TRANSPOSE":
            order = self._constant(operator.inputs[1])
            return None if order is None else values.transpose(order)
        return values.reshape(self._shape(operator.outputs[0]))

    def _replace(self, run: list[Any]) -> None:
        source, result = int(run[0].inputs[0]), int(run[-1].outputs[0])
        for operator in run[:-1]:
            self.graph.operators.remove(operator)
        last, shape = run[-1], self._shape(result)
        readers = [entry for entry in self.graph.operators if result in list(entry.inputs)]
        if shape == self._shape(source) and result not in list(self.graph.outputs):
            self.graph.operators.remove(last)
            for reader in readers:
                reader.inputs = np.array([source if index == result else index for index in reader.inputs], np.int32)
            return
        options = schema.ReshapeOptionsT()
        options.newShape = np.array(shape, np.int32)
        last.opcodeIndex, self.names[id(last)] = self._code("RESHAPE"), "RESHAPE"
        last.inputs = np.array([source, self._add_constant(shape)], np.int32)
        last.builtinOptionsType, last.builtinOptions = schema.BuiltinOptions.ReshapeOptions, options

    def _lift_mean(self, mean: Any) -> bool:
        """Let ``mean`` read what the transpose before it reads."""
        before = next((entry for entry in self.graph.operators if int(mean.inputs[0]) in list(entry.outputs)), None)
        if before is None or self.names[id(before)] != "TRANSPOSE" or self._only_reader(before.outputs[0]) is not mean:
            return False
        order, axes = self._constant(before.inputs[1]), self._constant(mean.inputs[1])
        if order is None or axes is None or mean.builtinOptions.keepDims:
            return False
        inside = sorted(int(order[axis]) for axis in axes.ravel())
        left = [int(place) for place in order if int(place) not in inside]
        shape = self._shape(before.inputs[0])
        if sorted(left) != left and sum(shape[place] > 1 for place in left) > 1:
            return False
        mean.inputs = np.array([before.inputs[0], self._add_constant(inside)], np.int32)
        self.graph.operators.remove(before)
        return True

    def _only_reader(self, tensor: int) -> Any:
        readers = [entry for entry in self.graph.operators if tensor in list(entry.inputs)]
        return readers[0] if len(readers) == 1 and tensor not in list(self.graph.outputs) else None

    def _shape(self, tensor: int) -> list[int]:
        shape = self.graph.tensors[tensor].shape
        return [] if shape is None else [int(size) for size in shape]

    def _constant(self, tensor: int) -> Any:
        data = self.model.buffers[self.graph.tensors[tensor].buffer].data
        return None if data is None or not len(data) else np.frombuffer(bytes(bytearray(data)), np.int32)

    def _add_constant(self, values: list[int]) -> int:
        tensor, buffer = schema.TensorT(), schema.BufferT()
        buffer.data = np.frombuffer(np.array(values, np.int32).tobytes(), np.uint8)
        tensor.shape, tensor.type = np.array([len(values)], np.int32), schema.TensorType.INT32
        tensor.buffer, tensor.name = len(self.model.buffers), f"edgeprune/{len(self.graph.tensors)}"
        self.model.buffers.append(buffer)
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def _code(self, name: str) -> int:
        number = getattr(schema.BuiltinOperator, name)
        for index, code in enumerate(self.model.operatorCodes):
            if max(code.builtinCode, code.deprecatedBuiltinCode) == number:
                return index
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = number
        code.version = 1
        self.model.operatorCodes.append(code)
        return len(self.model.operatorCodes) - 1
