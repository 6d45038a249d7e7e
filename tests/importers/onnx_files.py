"""Small ONNX files: of one operator, or of a torch module by either of its exporters."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "bool": TensorProto.BOOL, "float16": TensorProto.FLOAT16}


def file_of(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int | str] | None],
    outputs: Sequence[str] = ("y",),
    constants: Mapping[str, Any] | None = None,
    opset: int = 17,
    types: Mapping[str, str] | None = None,
    domains: Sequence[str] = (),
) -> Path:
    """Write a file of ``nodes``.  ``constants``: initializers; ``types``: of inputs that are not float32."""
    kinds = types or {}
    declared = [helper.make_tensor_value_info(name, TYPES[kinds.get(name, "float32")], sizes) for name, sizes in inputs.items()]
    made = [onnx.ValueInfoProto(name=name) for name in outputs]
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()]
    graph = helper.make_graph(list(nodes), "graph", declared, made, stored)
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    model = onnx.shape_inference.infer_shapes(model) if not domains else model
    for output in model.graph.output:
        if not output.type.HasField("tensor_type"):
            output.type.tensor_type.elem_type = TensorProto.FLOAT
    onnx.save(model, str(path))
    return path


def one(
    path: Path, op: str, shape: Sequence[int | str], constants: Mapping[str, Any] | None = None, opset: int = 17, **attributes: Any
) -> Path:
    """A file of one operator: its first input is the file's, the others are constants, in order; "" is one that is left out."""
    given = constants or {}
    node = helper.make_node(op, ["x", *given], ["y"], name=f"the_{op}", **attributes)
    return file_of(path, [node], {"x": shape}, constants={name: value for name, value in given.items() if name}, opset=opset)


def exported(path: Path, model: nn.Module, inputs: tuple[torch.Tensor, ...], dynamo: bool = False, opset: int = 17) -> Path:
    """A file that torch writes, with the batch size left open."""
    names = [f"input{place}" for place in range(len(inputs))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            dims = tuple({0: torch.export.Dim("batch")} for _ in inputs)
            torch.onnx.export(model.eval(), inputs, str(path), dynamo=True, verbose=False, dynamic_shapes=dims, input_names=names)
        else:
            axes = {name: {0: "batch"} for name in [*names, "output"]}
            torch.onnx.export(
                model.eval(),
                inputs,
                str(path),
                dynamo=False,
                opset_version=opset,
                input_names=names,
                output_names=["output"],
                dynamic_axes=axes,
            )
    return path
