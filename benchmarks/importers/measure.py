"""One file: imported, analysed, cut to 60 % of every group's channels; and what other converters make of it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.importers.cases import file_of
from edgeprune.graph import analyze
from edgeprune.importers.onnx.opening import open_file
from edgeprune.surgery import apply, plan_from_saliency

SHARE = 0.6
PEERS = ("onnx2torch", "onnx2pytorch")


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


def peer(package: str, path: str, shapes: dict[str, list[int]], python: str) -> str:
    """What ``package`` makes of a file, run by ``python``: "yes", or what is missing."""
    command = [python, __file__, package, path, json.dumps(shapes)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    except subprocess.TimeoutExpired:
        return "took over 300 s"
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else "crashed"


def _peer(package: str, path: str, shapes: dict[str, list[int]]) -> str:
    import onnx
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    generator = np.random.default_rng(0)
    feed, values = {}, []
    for one in session.get_inputs():
        sizes = shapes.get(one.name) or [size if isinstance(size, int) else 1 for size in one.shape]
        whole = "int" in one.type
        kind = np.int64 if "64" in one.type else np.int32
        value = generator.integers(0, 2, sizes).astype(kind) if whole else generator.standard_normal(sizes)
        feed[one.name] = np.asarray(value, None if whole else np.float32)
        values.append(torch.from_numpy(np.array(feed[one.name])))
    wanted = session.run(None, feed)
    try:
        if package == "onnx2torch":
            from onnx2torch import convert

            model = convert(path).eval()
        else:
            from onnx2pytorch import ConvertModel

            model = ConvertModel(onnx.load(path)).eval()
    except Exception as error:
        return f"does not convert ({type(error).__name__})"
    try:
        with torch.no_grad():
            got = model(*values)
    except Exception as error:
        return f"does not run ({type(error).__name__})"
    got = list(got) if isinstance(got, (tuple, list)) else [got]
    far = max(float(np.abs(one.numpy() - other).max() / max(np.abs(other).max(), 1e-6)) for one, other in zip(got, wanted, strict=False))
    if not far <= 1e-4:
        return f"differs by {far:.0e}"
    try:
        torch.export.export(model, tuple(values))
    except Exception:
        return "agrees, torch.export refuses it"
    return "yes"


if __name__ == "__main__":
    import logging
    import warnings

    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    print(_peer(sys.argv[1], sys.argv[2], json.loads(sys.argv[3])))
