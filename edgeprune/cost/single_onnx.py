"""An ONNX file that holds one kernel and nothing else."""

from __future__ import annotations

import io
import logging
import warnings

import torch

from edgeprune.cost.kernels import KernelSpec
from edgeprune.cost.single_torchscript import kernel_module

_OPSET = 20
_LOG = logging.getLogger("torch.onnx")


def single_onnx(spec: KernelSpec, in_width: int, out_width: int) -> bytes:
    """The kernel ``spec`` from ``in_width`` to ``out_width`` channels as an ONNX model, float32, NCHW, batch 1.

    By torch's exporter of traces: that of exported programs takes a second for each.
    """
    module, examples = kernel_module(spec, in_width, out_width)
    buffer, level = io.BytesIO(), _LOG.level
    _LOG.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(module, examples, buffer, dynamo=False, opset_version=_OPSET)  # type: ignore[arg-type]
    finally:
        _LOG.setLevel(level)
    return buffer.getvalue()
