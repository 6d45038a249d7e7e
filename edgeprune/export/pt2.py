"""``.pt2``: the exported program itself, TorchScript's successor."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from torch import Tensor

from edgeprune.errors import ExportError
from edgeprune.export.formats import Format, register
from edgeprune.export.source import Source, flat_outputs


def _write(source: Source) -> bytes:
    program, buffer = source.program, io.BytesIO()
    try:
        torch.export.save(program, buffer)
    except Exception as error:
        raise ExportError(f"pt2: the exported program cannot be saved: {error}") from error
    return buffer.getvalue()


def _run(path: Path, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    with torch.no_grad():
        return flat_outputs(torch.export.load(str(path)).module()(*inputs))


PT2 = register(Format("pt2", ".pt2", _write, _run))
