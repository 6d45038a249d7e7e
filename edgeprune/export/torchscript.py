"""TorchScript: traced, frozen and saved; for devices that have PyTorch."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import torch
from torch import Tensor

from edgeprune.errors import ExportError
from edgeprune.export.formats import Format, register
from edgeprune.export.source import Source, flat_outputs


def _write(source: Source) -> bytes:
    buffer = io.BytesIO()  # a path would put the temporary file's name into the archive
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(source.module, source.inputs, check_trace=False, strict=False)  # type: ignore[no-untyped-call]
            torch.jit.save(torch.jit.freeze(traced.eval()), buffer)
    except Exception as error:
        raise ExportError(f"torchscript: the model cannot be traced: {error}") from error
    return buffer.getvalue()


def _run(path: Path, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return flat_outputs(torch.jit.load(str(path), map_location="cpu")(*inputs))  # type: ignore[no-untyped-call]


TORCHSCRIPT = register(Format("torchscript", ".pt", _write, _run))
