"""``tflite-sparse``: TFLite whose mostly-zero weights are stored without their zeros, in the form XNNPACK's sparse kernels take on ARM.

A weight is stored with ``SparsityParameters`` (all dimensions dense but the last, the input channels, which is CSR) and read through a
``DENSIFY`` operator; XNNPACK's delegate unpacks it once when the model is loaded, and takes its sparse kernels for the 1x1 convolutions of
a cluster that it can run channel by channel (:mod:`edgeprune.export.sparse.check` says which).  Elsewhere the file runs as a dense one.

Sources: TFLite's schema.fbs (``SparsityParameters``, ``DimensionMetadata``); Elsen et al., "Fast Sparse ConvNets", 2020.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgeprune.engines import FORMATS, SPARSE
from edgeprune.errors import ExportError
from edgeprune.export import metadata, sizes, tflite
from edgeprune.export.formats import Format, register
from edgeprune.export.source import Source
from edgeprune.export.sparse.check import Cluster, clusters
from edgeprune.export.sparse.nodes import APART, Layout, Node, nodes_of
from edgeprune.tflite import schema as flatbuffer
from edgeprune.tflite.file import TfliteFile
from edgeprune.tflite.sparsity import without_zeros

LEAST_ZEROS: Final = 0.5
"""The share of zeros from which a weight is stored sparse: a value takes 4 bytes, and with its place 5 to 8."""


def sparse_tflite(content: bytes, least: float = LEAST_ZEROS, *, arrange: bool = True) -> bytes:
    """The float TFLite file ``content`` with its weights stored sparse, and arranged so that XNNPACK can take its sparse kernels.

    Weights of 1x1 convolutions and fully-connected layers of which at least the share ``least`` is zero are stored without their zeros.
    Global averages keep four dimensions; a constant that is added or multiplied becomes the first operand, in four dimensions; a RESHAPE
    that changes nothing keeps out of the sparse part what XNNPACK would misread there, and fully-connected layers.  What the model
    computes does not change, and the same file gives the same bytes.  :func:`edgeprune.export.sparse.check.sparse_check` says what of
    it will run sparse.  Without ``arrange`` only the way weights are stored changes.

    Raises :class:`ExportError` when no weight has so many zeros, or ``content`` is no TFLite file.
    """
    file = TfliteFile(content)
    weights = _prunable(file)
    zeros = {tensor: 1.0 - np.count_nonzero(values) / values.size for tensor, values in weights.items()}
    chosen = [tensor for tensor in weights if zeros[tensor] >= least]
    if not chosen:
        most = f"; the most has {100 * max(zeros.values()):.0f} %" if zeros else ""
        raise ExportError(
            f"tflite-sparse: no 1x1 convolution or linear layer has {100 * least:.0f} % of its weights zero{most}",
            remedy="Sparsify the model first (edgeprune sparsify), or export tflite.",
        )
    if arrange:
        _arrange(file)
    for tensor in chosen:
        _store_sparse(file, tensor, weights[tensor])
    if arrange:
        _keep_apart(file)
    return file.pack()


def _prunable(file: TfliteFile) -> dict[int, np.ndarray[Any, Any]]:
    """The float32 weights of 1x1 convolutions and fully-connected layers, by tensor."""
    found = {}
    for operator in file.operators:
        if file.operation(operator) in ("CONV_2D", "FULLY_CONNECTED"):
            tensor = int(operator.inputs[1])
            values = file.constant(tensor)
            if values is not None and values.dtype == np.float32 and (values.ndim == 2 or values.shape[1:3] == (1, 1)):
                found[tensor] = values
    return found


def _store_sparse(file: TfliteFile, tensor: int, values: np.ndarray[Any, Any]) -> None:
    """Keep only the values that are not zero, and put a DENSIFY between them and whoever reads them."""
    dense = file.add_tensor(tensor, f"{file.name(tensor)}/dense", values.shape)
    for operator in file.operators:
        operator.inputs = np.array([dense if place == tensor else place for place in operator.inputs], np.int32)
    file.add_operator(0, "DENSIFY", [tensor], [dense], ("DensifyOptions", schema.DensifyOptionsT()))
    kept, sparsity = without_zeros(values)
    stored = file.graph.tensors[tensor]
    stored.buffer, stored.sparsity = file.add_buffer(kept), sparsity


def _arrange(file: TfliteFile) -> None:
    """Write what XNNPACK would not run channel by channel in the form that it does."""
    place = 0
    while place < len(file.operators):
        operator = file.operators[place]
        operation = file.operation(operator)
        if operation == "AVERAGE_POOL_2D" and _pools_all(file, operator):
            _to_mean(file, place)
        elif operation == "MEAN" and len(file.shape(operator.inputs[0])) == 4 and not operator.builtinOptions.keepDims:
            _keep_dimensions(file, place)
        elif operation in ("ADD", "MUL"):
            _constant_first(file, operator)
        place += 1


def _pools_all(file: TfliteFile, operator: Any) -> bool:
    """Whether an average is taken over the whole extent, and nothing follows in the same operator."""
    height, width = file.shape(operator.inputs[0])[1:3]
    options = operator.builtinOptions
    whole = (options.filterHeight, options.filterWidth) == (height, width) and options.padding == schema.Padding.VALID
    return whole and options.fusedActivationFunction == schema.ActivationFunctionType.NONE


def _to_mean(file: TfliteFile, place: int) -> None:
    old = file.operators.pop(place)
    options = schema.ReducerOptionsT()
    options.keepDims = True
    axes = file.add_tensor(0, f"{file.name(old.outputs[0])}/axes", (2,), np.array([1, 2], np.int32))
    file.add_operator(place, "MEAN", [int(old.inputs[0]), axes], [int(old.outputs[0])], ("ReducerOptions", options))


def _keep_dimensions(file: TfliteFile, place: int) -> None:
    """A mean with four dimensions, and a RESHAPE to those it had."""
    operator = file.operators[place]
    source, wanted = int(operator.inputs[0]), int(operator.outputs[0])
    axes = file.constant(int(operator.inputs[1]))
    if axes is None:
        return
    shape = list(file.shape(source))
    for axis in axes.ravel().tolist():
        shape[axis] = 1
    whole = file.add_tensor(wanted, f"{file.name(wanted)}/mean", tuple(shape))
    operator.outputs, operator.builtinOptions.keepDims = np.array([whole], np.int32), True
    _reshape(file, place + 1, whole, wanted, np.array(file.shape(wanted), np.int32))


def _constant_first(file: TfliteFile, operator: Any) -> None:
    """Of an activation of four dimensions and one constant per channel (or at all), the constant first, in four dimensions.

    XNNPACK judges a constant second operand by the shape of the first, and so refuses it.
    """
    first, second = (int(tensor) for tensor in operator.inputs)
    values = file.constant(second)
    shape = file.shape(first)
    if (
        values is None
        or values.dtype != np.float32
        or len(shape) != 4
        or values.size not in (1, shape[3])
        or values.shape[-1:] not in ((), (values.size,))
    ):
        return
    constant = file.add_tensor(second, f"{file.name(second)}/channels", (1, 1, 1, values.size), values.reshape(1, 1, 1, -1))
    operator.inputs = np.array([constant, first], np.int32)


def _keep_apart(file: TfliteFile) -> None:
    """Put a RESHAPE that changes nothing behind the mean before every node that must not be in the sparse part, or where there is no mean,
    behind the part's first convolution: XNNPACK runs channel by channel only up to it."""
    while True:
        nodes = nodes_of(file)
        for cluster in clusters(file, nodes):
            dense = [node for node in cluster.members if node.operation == "FULLY_CONNECTED" and cluster.cause is None]
            if outside := cluster.leaks + dense:
                for tensor in _border(nodes, cluster, outside[0]):
                    _insert_reshape(file, tensor)
                break
        else:
            return


def _border(nodes: list[Node], cluster: Cluster, node: Node) -> list[int]:
    """The output of the last mean before ``node``, or else those of the cluster's first nodes."""
    producer = {member.output: member for member in nodes}
    waiting = list(node.inputs)
    while waiting:
        before = producer.get(waiting.pop(0))
        if before is not None and before in cluster.members:
            if Layout.END in before.verdict.layout:
                return [before.output]
            waiting += before.inputs
    return [member.output for member in cluster.members if member.verdict.layout == Layout.START]


def _insert_reshape(file: TfliteFile, tensor: int) -> None:
    shape = np.array(file.shape(tensor), np.int32)
    place = next(index for index, operator in enumerate(file.operators) if tensor in operator.outputs)
    same = file.add_tensor(tensor, f"{file.name(tensor)}{APART}", file.shape(tensor))
    for operator in file.operators[place + 1 :]:
        operator.inputs = np.array([same if read == tensor else read for read in operator.inputs], np.int32)
    _reshape(file, place + 1, tensor, same, shape)


def _reshape(file: TfliteFile, place: int, source: int, target: int, shape: np.ndarray[Any, Any]) -> None:
    sizes = file.add_tensor(source, f"{file.name(target)}/shape", (len(shape),), shape)
    options = schema.ReshapeOptionsT()
    options.newShape = shape
    file.add_operator(place, "RESHAPE", [source, sizes], [target], ("ReshapeOptions", options))


def _write(source: Source) -> bytes:
    model = flatbuffer.read(sparse_tflite(tflite.TFLITE.write(source)))
    about = metadata.encoded(SPARSE, source, channels_last=list(source.channels_last))
    flatbuffer.set_metadata(model, metadata.NAME, about)
    return flatbuffer.pack(model)


TFLITE_SPARSE = register(
    Format(
        FORMATS[SPARSE], _write, tflite.load, options=("channels_last",), external=True, metadata=metadata.of_tflite, parts=sizes.of_tflite
    )
)
