"""TorchScript: traced, frozen and saved; for devices that have PyTorch."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from edgeprune.errors import ExportError
from edgeprune.export.formats import Format, register
from edgeprune.export.source import Source, flat_outputs


def _write(source: Source) -> bytes:
    buffer = io.BytesIO()  # a path would put the temporary file's name into the archive
    try:
        with torch.no_grad(), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            traced = torch.jit.trace(_Flat(source.module), source.inputs, check_trace=False)  # type: ignore[no-untyped-call]
            torch.jit.save(torch.jit.freeze(traced.eval()), buffer)
    except Exception as error:
        raise ExportError(f"torchscript: the model cannot be traced: {error}") from error
    if any("Python boolean" in str(warning.message) for warning in caught):
        _ = source.program  # a branch was taken: on a shape, which is fixed, or on values, which cannot be captured and raises
    return buffer.getvalue()


class _Flat(nn.Module):
    """A model whose output is a tensor or a tuple of tensors: tracing knows no dicts of mixed values."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        outputs = flat_outputs(self.module(*inputs))
        return outputs[0] if len(outputs) == 1 else tuple(outputs)


def _run(path: Path, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return flat_outputs(torch.jit.load(str(path), map_location="cpu")(*inputs))  # type: ignore[no-untyped-call]


TORCHSCRIPT = register(Format("torchscript", ".pt", _write, _run))
