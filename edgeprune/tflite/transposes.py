"""Moves that a TFLite file can do without: transposes that cancel out, or that stand before a mean.

Converters keep PyTorch's order of dimensions at the edges of a graph by transposes.  On a microcontroller each takes time, code and arena.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgeprune.tflite import schema as flatbuffer
from edgeprune.tflite.trim import drop_unread_tensors

_MOVES = ("TRANSPOSE", "RESHAPE", "EXPAND_DIMS", "SQUEEZE")


def without_moves(content: bytes) -> bytes:
    """The TFLite file with every run of transposes and reshapes that keeps the order in memory as one reshape (or none), and without the
    transpose before a mean, whose axes are given in the order before.  It computes the same; the same file gives the same bytes."""
    model = flatbuffer.read(content)
    changed = [_Mover(model, graph).run() for graph in model.subgraphs]
    if not any(changed):
        return content
    drop_unread_tensors(model)
    return flatbuffer.pack(model)


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
        """Let ``mean`` read what is before the moves that lead to it."""
        axes = self._constant(mean.inputs[1])
        run: list[Any] = []
        while (before := self._maker(run[0].inputs[0] if run else mean.inputs[0])) is not None:
            if self.names[id(before)] not in _MOVES or self._only_reader(before.outputs[0]) is not (run[0] if run else mean):
                break
            run.insert(0, before)
        while run and self.names[id(run[0])] != "TRANSPOSE":
            run.pop(0)
        if not run or axes is None or mean.builtinOptions.keepDims:
            return False
        moved = np.arange(int(np.prod(self._shape(run[0].inputs[0])))).reshape(self._shape(run[0].inputs[0]))
        for operator in run:
            moved = self._moved(operator, moved)
            if moved is None:
                return False
        lifted = _axes_before(self._shape(run[0].inputs[0]), moved, [int(axis) for axis in axes], self._shape(mean.outputs[0]))
        if lifted is None:
            return False
        mean.inputs = np.array([run[0].inputs[0], self._add_constant(lifted)], np.int32)
        for operator in run:
            self.graph.operators.remove(operator)
        return True

    def _maker(self, tensor: int) -> Any:
        return next((entry for entry in self.graph.operators if int(tensor) in list(entry.outputs)), None)

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


def _axes_before(shape: list[int], moved: Any, axes: list[int], result: list[int]) -> list[int] | None:
    """The dimensions of ``shape`` to take the mean over for what the mean of ``moved`` (its flat places, moved) over ``axes`` is; None when
    there are none.  ``result``: the shape of the mean."""
    places = np.unravel_index(_rows(moved, axes)[0], shape)
    inside = [dim for dim, values in enumerate(places) if len(set(values.tolist())) > 1]
    left = [dim for dim in range(len(shape)) if dim not in inside]
    spare = len(left) - len(result)
    for dim in list(left):
        if spare > 0 and shape[dim] == 1:
            left.remove(dim)
            spare -= 1
    found = [dim for dim in range(len(shape)) if dim not in left]
    straight = np.arange(moved.size).reshape(shape)
    same = [shape[dim] for dim in left] == result and np.array_equal(_rows(straight, found), _rows(moved, axes))
    return found if same else None


def _rows(values: Any, axes: list[int]) -> Any:
    """A row for each element of the mean over ``axes``: what goes into it, sorted."""
    rest = [dim for dim in range(values.ndim) if dim not in [axis % values.ndim for axis in axes]]
    rows = values.transpose([*rest, *(dim for dim in range(values.ndim) if dim not in rest)])
    return np.sort(rows.reshape(int(np.prod([values.shape[dim] for dim in rest])), -1), axis=1)
