"""ONNX by PyTorch's own exporter (``torch.onnx.export`` of an exported program), for ONNX Runtime.  Needs ``edgeprune[onnx]``."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgeprune import engines
from edgeprune.cost.single_onnx import single_onnx
from edgeprune.engines import FORMATS
from edgeprune.errors import ExportError
from edgeprune.export import sizes
from edgeprune.export.extras import require
from edgeprune.export.formats import Format, Loaded, register
from edgeprune.export.metadata import NAME, encoded, of_onnx
from edgeprune.export.source import Source

OPSET = 20
"""The exporter's own default in torch 2.9 to 2.14; ONNX Runtime runs it from 1.17 on."""


def _write(source: Source) -> bytes:
    onnx = require("onnx", "onnx")
    require("onnxscript", "onnx")
    require("onnxruntime", "onnx")
    options = source.options
    with _quiet():
        try:
            made = torch.onnx.export(
                source.program,
                source.inputs,
                dynamo=True,
                opset_version=OPSET,
                input_names=list(options.inputs) or None,
                output_names=list(options.outputs) or None,
                verbose=False,
            )
        except Exception as error:
            raise ExportError(f"onnx: {_reason(error)}", remedy="The formats torchscript and pt2 may still work.") from error
    assert made is not None
    return _plain(made.model_proto, source, onnx)


def _plain(model: Any, source: Source, onnx: Any) -> bytes:
    """The model without stack traces and the exporter's notes, which hold this machine's paths; with what it says about itself."""
    for part in (model, model.graph, *model.functions):
        del part.metadata_props[:]
    for graph in (model.graph, *model.functions):
        for node in graph.node:
            del node.metadata_props[:]
            node.doc_string = ""
    for values in (model.graph.input, model.graph.output, model.graph.value_info, model.graph.initializer):
        for value in values:
            del value.metadata_props[:]
    onnx.helper.set_model_props(model, {NAME: encoded(engines.ONNX, source).decode()})
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"onnx: the exporter wrote an invalid model: {error}") from error
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _reason(error: BaseException) -> str:
    """What the exporter says, without its advice: the operation that has no form where that is the reason."""
    inner: BaseException = error
    while inner.__cause__ is not None:
        inner = inner.__cause__
    text = str(inner).strip().splitlines()
    return text[0] if text else type(inner).__name__


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _load(path: Path) -> Loaded:
    runtime = require("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]

    def run(inputs: tuple[Tensor, ...]) -> list[Tensor]:
        feed = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
        return [torch.from_numpy(value) for value in session.run(None, feed)]

    return run


ONNX = register(Format(FORMATS[engines.ONNX], _write, _load, extra="onnx", kernel=single_onnx, metadata=of_onnx, parts=sizes.of_onnx))
