"""One file: imported, analysed, cut to 60 % of every group's channels."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.importers.cases import file_of
from edgeprune.graph import analyze
from edgeprune.importers.onnx.opening import open_file
from edgeprune.surgery import apply, plan_from_saliency

SHARE = 0.6


def measure(name: str, folder: Path, packages: Path) -> dict[str, Any]:
    """The row of one file; ``error`` where it fails."""
    path, real = file_of(name, folder, packages)
    row: dict[str, Any] = {"name": name, "origin": real.origin, "package": real.package, "file": str(path)}
    started = time.process_time()
    found = open_file(path, real.shapes or None, real.constants)
    row |= {"import_cpu_s": time.process_time() - started, "difference": found.difference, "any_batch": bool(found.samples)}
    row |= {"opset": found.opset, "parameters": sum(value.numel() for value in found.module.parameters())}
    analysis = analyze(found.module, found.example_inputs)
    generator = np.random.default_rng(0)
    saliency = {group.name: generator.random(group.rows.shape) for group in analysis.groups}
    widths = {group.name: max(1, int(SHARE * group.size)) for group in analysis.groups}
    row |= {"groups": len(analysis.groups), "unsupported": sorted({operation for _, operation in analysis.unsupported})}
    if analysis.groups:
        cut = apply(found.module, analysis, plan_from_saliency(analysis, saliency, widths))
        row |= {"cut_difference": cut.error, "left": sum(value.numel() for value in cut.model.parameters())}
    return row
