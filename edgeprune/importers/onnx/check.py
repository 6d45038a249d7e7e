"""Comparing an import with what ONNX Runtime computes, and finding the first node that differs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from edgeprune.errors import ModelFileError
from edgeprune.importers.onnx.builder import Builder
from edgeprune.importers.onnx.model import Graph
from edgeprune.importers.onnx.reader import require

TOLERANCE = 1e-4
"""Largest difference allowed, as a share of an output's largest magnitude."""


class Runtime:
    """The file in ONNX Runtime; ``known``: inputs that are set for good.  Raises :class:`ModelFileError` where that refuses it."""

    def __init__(self, proto: Any, known: Mapping[str, Tensor]) -> None:
        self._runtime = require("onnxruntime")
        self._proto, self._known = proto, known
        self._session = self._opened(proto)

    def _opened(self, proto: Any) -> Any:
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.graph_optimization_level = self._runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            return self._runtime.InferenceSession(_bytes(proto), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ModelFileError(
                f"ONNX Runtime refuses the file: {_first_line(error)}", remedy="Export it again; onnx.checker.check_model says more."
            ) from error

    def run(self, inputs: Mapping[str, Tensor], apart: bool = False) -> list[Any]:
        """The outputs; of a file that takes one sample, those of each (``apart``).  Raises :class:`ModelFileError` where it fails on these
        inputs."""
        if not apart:
            return self._run(self._session, inputs, None)
        count = len(next(iter(inputs.values())))
        each = [self._run(self._session, {name: value[[place]] for name, value in inputs.items()}, None) for place in range(count)]
        return [np.concatenate(parts) for parts in zip(*each, strict=True)]

    def _run(self, session: Any, inputs: Mapping[str, Tensor], names: list[str] | None) -> list[Any]:
        taken = {item.name for item in session.get_inputs()}
        feed = {name: value.numpy() for name, value in {**inputs, **self._known}.items() if name in taken}
        try:
            found: list[Any] = session.run(names, feed)
        except Exception as error:
            sizes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in inputs.items())
            raise ModelFileError(
                f"ONNX Runtime cannot run the file on inputs {sizes}: {_first_line(error)}",
                remedy="Give the sizes that the model is used with (--input 1x3x224x224).",
            ) from error
        return found

    def inner(self, inputs: Mapping[str, Tensor], names: list[str]) -> dict[str, Any]:
        """Values inside the graph, by name."""
        onnx = require("onnx")
        proto = onnx.ModelProto()
        proto.CopyFrom(self._proto)
        del proto.graph.output[:]
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        return dict(zip(names, self._run(self._opened(proto), inputs, names), strict=True))


def _bytes(proto: Any) -> bytes:
    try:
        content: bytes = proto.SerializeToString()
    except ValueError as error:  # more than protobuf's 2 GiB
        raise ModelFileError(f"the file is too large to be checked: {error}", remedy="Import a smaller model.") from error
    return content


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = next((line for line in lines), type(error).__name__)
    return text.split(" : ", 3)[-1][:300]


def difference(one: Tensor, other: Any) -> float:
    """The largest difference as a share of the largest magnitude; infinite where shapes or kinds of numbers differ."""
    wanted = torch.from_numpy(np.asarray(other))
    if one.shape != wanted.shape:
        return float("inf")
    if not wanted.is_floating_point():
        return 0.0 if torch.equal(one.to(wanted.dtype), wanted) else float("inf")
    if wanted.numel() == 0:
        return 0.0
    one, wanted = one.double(), wanted.double()
    if not torch.equal(one.isnan(), wanted.isnan()):
        return float("inf")
    one, wanted = one.nan_to_num(0.0, 3e38, -3e38), wanted.nan_to_num(0.0, 3e38, -3e38)
    return float((one - wanted).abs().max() / wanted.abs().max().clamp(min=1e-6))


def compare(module: fx.GraphModule, runtime: Runtime, inputs: Mapping[str, Tensor], apart: bool = False) -> float:
    """The largest difference of any output; infinite where the module does not even run."""
    wanted = runtime.run(inputs, apart)
    with torch.no_grad():
        got = pytree.tree_leaves(module(*inputs.values()))
    return max(difference(one, other) for one, other in zip(got, wanted, strict=True))


class _Recording(fx.Interpreter):
    """Keeps what every node computes."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.seen: dict[str, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        found = super().run_node(n)
        self.seen[n.name] = found
        return found


def first_difference(module: fx.GraphModule, builder: Builder, graph: Graph, runtime: Runtime, inputs: Mapping[str, Tensor]) -> str:
    """The first node of the file whose result differs, as text; what to say where none can be told apart."""
    recording = _Recording(module)
    with torch.no_grad():
        recording.run(*inputs.values())
    names = []
    for node in graph.nodes:
        for name in node.outputs:
            value = builder.values.get(name)
            if value is None or value.node is None or name in builder.absorbed:
                continue
            if isinstance(recording.seen.get(value.node.name), Tensor):
                names.append((name, node, value.node.name))
    inner = runtime.inner(inputs, [name for name, _, _ in names])
    for name, node, key in names:
        found = difference(recording.seen[key], inner[name])
        if found > TOLERANCE:
            return f"the first node that differs is {node.label} (operator set {node.version}), by {found:.1e}"
    return "no single node differs by more: small differences add up"
