"""Half precision as float32: files of fp16 and bf16 weights compute, and are compared, in float32."""

from __future__ import annotations

from typing import Any

from edgeprune.importers.onnx.reader import all_nodes, require

HALF = (10, 16)  # TensorProto.FLOAT16, BFLOAT16
FLOAT = 1


def widen(proto: Any) -> bool:
    """Make every half-precision type in a model float32, in place.  Whether there was one."""
    found = _graph(proto.graph)
    for node in all_nodes(proto.graph):
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype", "stash_type") and attribute.i in HALF:
                attribute.i, found = FLOAT, True
            if attribute.HasField("t"):
                found |= _tensor(attribute.t)
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                found |= _graph(inner)
    return found


def _graph(graph: Any) -> bool:
    found = False
    for item in graph.initializer:
        found |= _tensor(item)
    for values in (graph.input, graph.output, graph.value_info):
        for item in values:
            if item.type.tensor_type.elem_type in HALF:
                item.type.tensor_type.elem_type, found = FLOAT, True
    return found


def _tensor(item: Any) -> bool:
    if item.data_type not in HALF:
        return False
    helper = require("onnx.numpy_helper")
    item.CopyFrom(helper.from_array(helper.to_array(item).astype("float32"), item.name))
    return True
