"""TorchScript: traced, frozen and saved; for devices that have PyTorch."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgeprune import engines
from edgeprune.cost.single_torchscript import INPUTS_FILE, single_torchscript
from edgeprune.engines import FORMATS
from edgeprune.errors import ExportError
from edgeprune.export import sizes
from edgeprune.export.formats import Format, Loaded, register
from edgeprune.export.metadata import EXTRA_FILE, encoded, of_archive
from edgeprune.export.source import Source, flat_outputs


def _write(source: Source) -> bytes:
    try:
        with torch.no_grad(), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            traced = torch.jit.trace(source.module, source.inputs, check_trace=False)  # type: ignore[no-untyped-call]
            content = _saved(torch.jit.freeze(traced.eval()), source)
    except Exception as error:
        raise ExportError(f"torchscript: the model cannot be traced: {error}") from error
    if any("Python boolean" in str(warning.message) for warning in caught):
        _ = source.program  # a branch was taken: on a shape, which is fixed, or on values, which cannot be captured and raises
    return content


def _saved(module: torch.jit.ScriptModule, source: Source) -> bytes:
    """The module as one function of its inputs, in bytes that depend on nothing else; the inputs' shapes beside it, for the runner.

    A saved module holds class names with a counter of this process, and the name of the file it is saved to. A frozen module's graph
    has its weights as constants and no use for the module.
    """
    extra = {INPUTS_FILE: json.dumps(source.described_inputs), EXTRA_FILE: encoded(engines.TORCHSCRIPT, source).decode()}
    graph = module.graph.copy()
    this = next(graph.inputs())
    if this.uses():
        buffer = io.BytesIO()
        torch.jit.save(module, buffer, _extra_files=extra)  # type: ignore[no-untyped-call]
        return buffer.getvalue()
    graph.eraseInput(0)
    function: Any = torch._C._create_function_from_graph("forward", graph)
    return _without_traces(function.save_to_buffer(extra))


def _without_traces(content: bytes) -> bytes:
    """The archive without its stack traces: they hold this machine's paths, and the loader does without them."""
    archive, buffer = torch._C.PyTorchFileReader(io.BytesIO(content)), io.BytesIO()
    writer = torch._C.PyTorchFileWriter(buffer)
    version = "version" if "version" in archive.get_all_records() else ".data/version"  # the latter where operators are newer
    writer.set_min_version(int(archive.get_record(version)))
    for name in archive.get_all_records():
        if not name.endswith(".debug_pkl") and name not in (version, ".data/serialization_id"):  # the writer makes the last two itself
            record = archive.get_record(name)
            writer.write_record(name, record, len(record))
    writer.write_end_of_file()
    return buffer.getvalue()


def _load(path: Path) -> Loaded:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]

    def run(inputs: tuple[Tensor, ...]) -> list[Tensor]:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return flat_outputs(module(*inputs))

    return run


TORCHSCRIPT = register(
    Format(FORMATS[engines.TORCHSCRIPT], _write, _load, kernel=single_torchscript, metadata=of_archive, parts=sizes.of_archive)
)
