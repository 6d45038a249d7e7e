"""A pruned model exported, and its files compared with it once more, on inputs that the export did not see."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from benchmarks.coverage.models import built, half
from edgeprune.errors import EdgepruneError
from edgeprune.export import export, formats, parity
from edgeprune.graph import analyze
from edgeprune.surgery import outputs_of
from edgeprune.task import device_inputs

FORMATS = ("torchscript", "tflite")
Row = dict[str, Any]


def measure(name: str) -> Row:
    """One entry a format: ``seconds`` of the export with its own comparison, ``size_bytes``, ``difference``; or ``error``."""
    model, inputs = built(name)
    pruned = half(model, analyze(model, inputs))
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache  # converted again: files of earlier runs say nothing of the time it takes
        entries = {form: entry(pruned.model, inputs, form) for form in FORMATS}
    failed = [f"{form}: {entries[form]['error']}" for form in FORMATS if entries[form]["error"]]
    return {"formats": entries, "mode": pruned.mode, "error": "; ".join(failed) or None}


def entry(model: nn.Module, inputs: tuple[Tensor, ...], form: str) -> Row:
    """Write ``model`` in one format, run the file."""
    probe = device_inputs(inputs, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        try:
            path = export(model, inputs, [form], Path(folder))[form]
            seconds, known = time.perf_counter() - started, formats.find(form)
            difference = parity.compare(form, outputs_of(model, probe), known.run(path, probe), known.tolerance).max_rel
        except EdgepruneError as error:
            return {"error": str(error)}
        return {"error": None, "seconds": seconds, "size_bytes": path.stat().st_size, "difference": difference}
