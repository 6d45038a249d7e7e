"""ExecuTorch programs (``.pte``) whose operators XNNPACK runs where it can.  Needs ``edgeprune[executorch]``."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from edgeprune import engines
from edgeprune.engines import FORMATS
from edgeprune.errors import ExportError
from edgeprune.export.extras import require
from edgeprune.export.formats import Format, Loaded, register
from edgeprune.export.source import Source, flat_outputs
from edgeprune.tflite.quiet import quiet_stderr


def _write(source: Source) -> bytes:
    with _quiet():
        exir = require("executorch.exir", "executorch")
        partitioner = require("executorch.backends.xnnpack.partition.xnnpack_partitioner", "executorch")
        try:
            edge = exir.to_edge_transform_and_lower(source.program, partitioner=[partitioner.XnnpackPartitioner()])
            return bytes(edge.to_executorch().buffer)
        except Exception as error:
            reason = str(error).strip().splitlines()
            raise ExportError(
                f"executorch: {reason[0] if reason else type(error).__name__}", remedy="The formats torchscript and pt2 may still work."
            ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the lowering's remarks on everything it leaves to the portable kernels."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with quiet_stderr(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _load(path: Path) -> Loaded:
    with _quiet():
        program = require("executorch.runtime", "executorch").Runtime.get().load_program(path)
        method = program.load_method("forward")

    def run(inputs: tuple[Tensor, ...]) -> list[Tensor]:
        return [value.clone() for value in flat_outputs(method.execute([value.contiguous() for value in inputs]))]

    run.program = program  # type: ignore[attr-defined]  # the method's memory is the program's
    return run


EXECUTORCH = register(Format(FORMATS[engines.EXECUTORCH], _write, _load, extra="executorch"))
