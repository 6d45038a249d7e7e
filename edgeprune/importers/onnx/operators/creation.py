"""Constants, and tensors made of sizes."""

from __future__ import annotations

import torch
from torch import Tensor

from edgeprune.importers.onnx.builder import Call
from edgeprune.importers.onnx.reader import dtype_of
from edgeprune.importers.onnx.registry import operator
from edgeprune.importers.onnx.values import Value


@operator("Constant")
def constant(call: Call) -> Value:
    """Stored in the node; known by the name of its output."""
    attributes = call.node.attributes
    if "value" in attributes:
        found = attributes["value"]
    elif "value_float" in attributes or "value_floats" in attributes:
        found = torch.tensor(attributes.get("value_float", attributes.get("value_floats")), dtype=torch.float32)
    elif "value_int" in attributes or "value_ints" in attributes:
        found = torch.tensor(attributes.get("value_int", attributes.get("value_ints")), dtype=torch.int64)
    else:
        call.refuse("holds texts or a sparse tensor")
    return Value((found,) * len(call.builder.batches), None, call.node.outputs[0])


@operator("ConstantOfShape")
def constant_of_shape(call: Call) -> Value:
    """Filled with one value, 0 by default."""
    fill = call.attribute("value", torch.zeros(1))
    if not call[0].constant:
        call.refuse("takes a shape that depends on the data")
    return Value(tuple(torch.full(one.tolist(), fill.item(), dtype=fill.dtype) for one in call[0].examples))


@operator("Range")
def range_(call: Call) -> Value:
    """From, to and by numbers that are known without the inputs."""
    if not all(call[place].constant for place in range(3)):
        call.refuse("counts to a number that depends on the data")
    return call.apply(_range, call[0], call[1], call[2])


def _range(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


@operator("EyeLike")
def eye_like(call: Call) -> Value:
    """Ones on a diagonal, in the shape of another matrix."""
    number = call.attribute("dtype")
    dtype, diagonal = call[0].dtype if number is None else dtype_of(number, call.node.label), call.attribute("k", 0)
    made = []
    for one in call[0].examples:
        rows, columns = one.shape
        grid = torch.arange(columns)[None, :] - torch.arange(rows)[:, None]
        made.append((grid == diagonal).to(dtype))
    return Value(tuple(made))
