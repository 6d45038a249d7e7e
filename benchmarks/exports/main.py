"""What every export format costs and gives, on real tasks: parity, the exported file's own accuracy, size, latency.

    EDGEPRUNE_DATA=... python -m benchmarks.exports               # all recipes, and docs/exports.md
    python -m benchmarks.exports --only har,ecg                   # some again; the document is of all that was ever measured
    python -m benchmarks.exports --render                         # the document alone

Results are kept in ``benchmarks/results/exports.json``, row by row; formats whose packages are missing are left out.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import date
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import platformdirs
import torch
from torch import Tensor

from benchmarks.exports.report import document
from edgeprune.batches import tensors_of
from edgeprune.bench import Artifact, BenchOptions, open_device
from edgeprune.errors import EdgepruneError
from edgeprune.export import ExportOptions, calibration_of, export, formats
from edgeprune.export.evaluate import score_file
from edgeprune.export.metadata import task_metadata
from edgeprune.export.parity import fidelity
from edgeprune.export.sizes import sizes
from edgeprune.task import Task, load_recipe
from edgeprune.tflite.versions import minimum_runtime
from edgeprune.tuning import score

ROOT = Path(__file__).parents[2]
RESULTS, DOCUMENT = ROOT / "benchmarks" / "results" / "exports.json", ROOT / "docs" / "exports.md"
RECIPES = ("cifar10_resnet56", "cifar10_mobilenetv2", "fsdd", "har", "snips", "ecg")
FORMATS = ("tflite", "tflite-fp16", "tflite-dynamic", "tflite-int8", "torchscript", "pt2", "onnx", "executorch")
NEEDED = {"onnx": "onnxruntime", "executorch": "executorch"}
LATENCY = ("latency_ms", "ratio", "ratio_low", "ratio_high", "verdict")
COMPARED = 64
"""Inferences of the validation data on which a file's outputs are compared with the model's."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(RECIPES), help="recipes, joined by commas")
    parser.add_argument("--formats", default=",".join(FORMATS), help="formats, joined by commas")
    parser.add_argument("--parts", default="files,latency", help="what is measured: the files themselves, their latency")
    parser.add_argument("--render", action="store_true", help="measure nothing")
    given = parser.parse_args()
    rows = known_rows()
    wanted = [name for name in given.formats.split(",") if find_spec(NEEDED.get(name, "torch"))]
    for part in () if given.render else given.parts.split(","):
        for name in given.only.split(","):
            print(f"== {name}: {part}", file=sys.stderr)
            row = rows.setdefault(name, {"files": {}})
            measure_files(name, wanted, row) if part == "files" else measure_latency(name, wanted, row)
            rows = known_rows() | {name: row}
            RESULTS.write_text(json.dumps({known: rows[known] for known in RECIPES if known in rows}, indent=1) + "\n")
    known = DOCUMENT.read_text() if DOCUMENT.exists() else ""
    DOCUMENT.write_text(document({name: rows[name] for name in RECIPES if name in rows}, FORMATS, known))


def known_rows() -> dict[str, Any]:
    """What was measured so far, by recipe."""
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    return found


def measure_files(name: str, wanted: Sequence[str], row: dict[str, Any]) -> None:
    """Fill in the row of one recipe: its model, and every file, which stays in the user's cache for the latencies."""
    task = load_recipe(ROOT / "recipes" / f"{name}.py")
    row |= {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()} with {os.cpu_count()} processors",
        "versions": {package: version(package) for package in ("torch", "litert-torch", "ai-edge-litert", "ai-edge-quantizer")},
        "parameters": sum(parameter.numel() for parameter in task.model.parameters()),
        "metric": task.metric_name,
        "score": score(task.model, task),
    }
    samples, probes = calibration_of(task), list(itertools.islice(validation_inputs(task), COMPARED))
    for form in wanted:
        known = {key: value for key, value in row["files"].get(form, {}).items() if key in LATENCY}
        try:
            row["files"][form] = known | measure_file(task, form, samples, probes)
        except EdgepruneError as error:
            row["files"][form] = {"error": error.message}
        print(f"{form}: {row['files'][form]}", file=sys.stderr)


def file_of(name: str, form: str) -> Path:
    """Where a recipe's file is kept."""
    return platformdirs.user_cache_path("edgeprune") / "benchmarks" / "exports" / f"{name}{formats.find(form).suffix}"


def measure_file(task: Task, form: str, samples: Sequence[tuple[Tensor, ...]], probes: Sequence[tuple[Tensor, ...]]) -> dict[str, Any]:
    """Export in one format; all that is measured without a device."""
    began = time.perf_counter()
    options = ExportOptions(metadata=task_metadata(task))
    path = file_of(task.name, form)
    export(task.model, task.example_inputs, [form], path.parent, task.name, calibration=samples, options=options)
    seconds = time.perf_counter() - began
    loaded = formats.find(form).load(path)
    with torch.no_grad():
        expected = [[task.model(*probe)] for probe in probes]
    near, parts = fidelity(expected, [loaded(probe) for probe in probes]), sizes(path)
    return {
        "export_s": round(seconds, 1),
        "sqnr_db": round(near.sqnr_db, 1),
        "agreement": near.agreement,
        "score": score_file(path, task, form),
        "bytes": path.stat().st_size,
        "weights_bytes": parts.weights if parts else None,
        "tensorflow_lite": str(minimum_runtime(path)) if path.suffix == ".tflite" else None,
    }


def validation_inputs(task: Task) -> Iterator[tuple[Tensor, ...]]:
    """Single inferences of the validation data."""
    assert task.validation is not None
    for batch in task.batches("validation"):
        tensors = tensors_of(batch.leaves)
        yield from (tuple(value[index : index + 1] for value in tensors) for index in range(tensors[0].shape[0]))


def measure_latency(name: str, wanted: Sequence[str], row: dict[str, Any]) -> None:
    """Fill in the latency of every file that a runtime here runs: each in turns with the float TFLite file, one thread."""
    base, options = file_of(name, "tflite"), BenchOptions(threads=1, energy=False, max_time_s=4.0)
    with open_device("local:", engine=None) as device:
        for form in wanted:
            path, known = file_of(name, form), row["files"].get(form, {})
            if form == "tflite" or "error" in known or not path.is_file() or formats.find(form).engine not in device.info.runtimes:
                continue
            compared = device.compare(Artifact(base, "tflite"), [Artifact(path, form)], options)
            ratio, measured = compared.ratios[0], compared.measurements
            known |= {"latency_ms": measured[1].latency_ms, "ratio": ratio.ratio, "ratio_low": ratio.low, "ratio_high": ratio.high}
            known["verdict"] = ratio.verdict
            row["files"]["tflite"]["latency_ms"] = measured[0].latency_ms
            print(f"{form}: {ratio}", file=sys.stderr)
