"""``.pt2``: the exported program itself, TorchScript's successor."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from torch import Tensor

from edgeprune.engines import FORMATS
from edgeprune.errors import ExportError
from edgeprune.export import sizes
from edgeprune.export.formats import Format, Loaded, register
from edgeprune.export.metadata import EXTRA_FILE, encoded, of_archive
from edgeprune.export.source import Source, flat_outputs


def _write(source: Source) -> bytes:
    program, buffer = source.program, io.BytesIO()
    try:
        torch.export.save(program, buffer, extra_files={EXTRA_FILE: encoded("pt2", source).decode()})
    except Exception as error:
        raise ExportError(f"pt2: the exported program cannot be saved: {error}") from error
    return buffer.getvalue()


def _load(path: Path) -> Loaded:
    module = torch.export.load(str(path)).module()

    def run(inputs: tuple[Tensor, ...]) -> list[Tensor]:
        with torch.no_grad():
            return flat_outputs(module(*inputs))

    return run


PT2 = register(Format(FORMATS["pt2"], _write, _load, metadata=of_archive, parts=sizes.of_archive))
