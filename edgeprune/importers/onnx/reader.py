"""Reading an ONNX file: what is damaged or cannot be taken is refused here, by name."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgeprune.errors import ModelFileError
from edgeprune.importers.onnx.model import Declared, Graph, Node

OLDEST, NEWEST = 9, 23
"""The operator sets of ONNX that are read."""

_QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul")
_DTYPES = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32, 7: torch.int64, 9: torch.bool, 10: torch.float16,
    11: torch.float64, 16: torch.bfloat16,
}  # fmt: skip
"""By the number that ONNX gives each element type (``TensorProto.DataType``)."""


def require(module: str) -> Any:
    """Import what ``edgeprune[onnx]`` installs.  Raises :class:`ModelFileError` that says so."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ModelFileError(
            f"reading ONNX files needs the package {module.split('.')[0]}, which cannot be imported: {error}",
            remedy='Install it: pip install "edgeprune[onnx]".',
        ) from error


def dtype_of(number: int, where: str) -> torch.dtype:
    """The type that ONNX numbers ``number``.  Raises :class:`ModelFileError` for one that no network computes with."""
    if number not in _DTYPES:
        name = require("onnx").TensorProto.DataType.Name(number) if number else "no type"
        raise ModelFileError(
            f"{where} is of {name}, which is not read", remedy="Inputs and weights are floating-point numbers, integers or booleans."
        )
    return _DTYPES[number]


def read_proto(path: Path) -> Any:
    """The file's model with its external data and without local functions.  Raises :class:`ModelFileError`."""
    onnx = require("onnx")
    if not path.is_file():
        raise ModelFileError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}", remedy="Give the path of an ONNX file.")
    try:
        proto = onnx.load(str(path))
    except Exception as error:  # protobuf's own, a missing file of external data, or what reading such a file raises
        text = str(error).strip().splitlines()
        raise ModelFileError(
            f"{path} cannot be read as an ONNX file: {text[0] if text else type(error).__name__}",
            remedy="Copy it again; weights that are stored beside it must be in the same folder.",
        ) from error
    if not proto.graph.node and not proto.graph.output:
        raise ModelFileError(f"{path} is not an ONNX file: it holds no graph", remedy="Copy it again, or export it again.")
    if proto.functions:
        proto = require("onnx.inliner").inline_local_functions(proto)
    _check_domains(proto, path)
    return proto


def _check_domains(proto: Any, path: Path) -> None:
    versions = {entry.domain or "ai.onnx": entry.version for entry in proto.opset_import}
    version = versions.get("ai.onnx")
    if version is not None and not OLDEST <= version <= NEWEST:
        how = "onnx.version_converter.convert_version(model, 13) makes one" if version < OLDEST else "Export it with opset_version=20"
        raise ModelFileError(f"{path} uses operator set {version}, and {OLDEST} to {NEWEST} are read", remedy=f"{how}.")
    for node in all_nodes(proto.graph):
        if node.op_type in _QUANTIZED:
            raise ModelFileError(
                f"{path} is quantized: it holds {node.op_type} ({node.name or node.output[0]})",
                remedy="Give the float file that it was made from; edgeprune quantizes after pruning (--precision int8).",
            )


def all_nodes(graph: Any) -> list[Any]:
    """The nodes of a graph (of protocol buffers) and of the graphs in it."""
    found = []
    for node in graph.node:
        found.append(node)
        for attribute in node.attribute:
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                found += all_nodes(inner)
    return found


def graph_of(proto: Any) -> Graph:
    """The graph of a model.  Raises :class:`ModelFileError` when it has no inputs or outputs, or an input of unknown rank."""
    versions = {entry.domain or "": entry.version for entry in proto.opset_import}
    versions.setdefault("", versions.get("ai.onnx", 1))
    graph = _graph(proto.graph, versions)
    graph.opset = versions[""]
    if not graph.inputs:
        raise ModelFileError("the file has no inputs: it computes the same always", remedy="Export the model with its inputs.")
    if not graph.outputs:
        raise ModelFileError("the file has no outputs", remedy="Export the model with its outputs.")
    for one in graph.inputs:
        if one.sizes is None:
            raise ModelFileError(
                f"input {one.name} does not say how many dimensions it has",
                remedy="Export it with a shape; sizes may be left open, the number of dimensions may not.",
            )
    return graph


def _graph(proto: Any, versions: dict[str, int]) -> Graph:
    constants = {item.name: tensor_of(item) for item in proto.initializer}
    for item in proto.sparse_initializer:
        raise ModelFileError(f"the weights {item.values.name} are stored sparse, which is not read", remedy="Store them dense.")
    inputs = [_declared(item) for item in proto.input if item.name not in constants]
    nodes = [_node(item, versions) for item in proto.node]
    return Graph(nodes, constants, inputs, [_declared(item) for item in proto.output])


def _declared(item: Any) -> Declared:
    kind = item.type.WhichOneof("value")
    if kind not in ("tensor_type", None):
        what = "a sequence" if kind == "sequence_type" else f"a {str(kind).removesuffix('_type')}"
        raise ModelFileError(f"{item.name} is {what}, not a tensor", remedy="Export the model so that its inputs and outputs are tensors.")
    tensor = item.type.tensor_type
    dtype = dtype_of(tensor.elem_type, item.name) if tensor.elem_type else torch.float32
    if not tensor.HasField("shape"):
        return Declared(item.name, dtype, None)
    sizes = (dim.dim_value if dim.WhichOneof("value") == "dim_value" and dim.dim_value > 0 else dim.dim_param for dim in tensor.shape.dim)
    return Declared(item.name, dtype, tuple("" if size in ("?", "-1") else size for size in sizes))


def _node(item: Any, versions: dict[str, int]) -> Node:
    domain = "" if item.domain in ("", "ai.onnx") else item.domain
    attributes = {one.name: _attribute(one, versions, item) for one in item.attribute}
    return Node(item.op_type, item.name, domain, versions.get(domain, 1), list(item.input), list(item.output), attributes)


def _attribute(one: Any, versions: dict[str, int], node: Any) -> Any:
    value = require("onnx").helper.get_attribute_value(one)
    kind = one.type
    if kind == one.STRING:
        return value.decode(errors="replace")
    if kind == one.STRINGS:
        return [text.decode(errors="replace") for text in value]
    if kind == one.TENSOR:
        return tensor_of(value, node.name or node.output[0])
    if kind == one.GRAPH:
        return _graph(value, versions)
    return list(value) if kind in (one.INTS, one.FLOATS) else value


def tensor_of(item: Any, name: str = "") -> Tensor:
    """A stored tensor.  Raises :class:`ModelFileError` when its bytes do not make one."""
    name = item.name or name
    if item.data_type == 8:
        raise ModelFileError(
            f"{name} holds texts, which no network computes with", remedy="Take the texts' part out of the exported model."
        )
    wanted = dtype_of(item.data_type, name)
    try:
        array = require("onnx.numpy_helper").to_array(item)
    except Exception as error:
        raise ModelFileError(f"the stored tensor {name} is damaged: {error}", remedy="Copy the file again, or export it again.") from error
    if wanted == torch.bfloat16:
        return torch.from_numpy(array.astype(np.float32)).to(wanted)
    return torch.from_numpy(np.array(array))  # a copy of its own: what the file holds is read-only
