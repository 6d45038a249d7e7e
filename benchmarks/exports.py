"""What every export format costs and gives, on real tasks: parity, the exported file's own accuracy, size, latency.

    EDGEPRUNE_DATA=... python benchmarks/exports.py               # all recipes, and docs/exports.md
    python benchmarks/exports.py --only har,ecg                   # some anew; the document is of all that was ever measured
    python benchmarks/exports.py --render                         # the document alone

Results are kept in ``benchmarks/results/exports.json``, row by row; formats whose packages are missing are left out.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import date
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from exports_report import document
from torch import Tensor

from edgeprune.bench import Artifact, BenchOptions, Device, open_device
from edgeprune.bench.runtimes import minimum_runtime
from edgeprune.errors import EdgepruneError
from edgeprune.export import ExportOptions, calibration_of, export, formats
from edgeprune.export.evaluate import score_file
from edgeprune.export.metadata import task_metadata
from edgeprune.export.parity import fidelity
from edgeprune.export.sizes import sizes
from edgeprune.task import Task, as_inputs, load_recipe
from edgeprune.tuning import score

ROOT = Path(__file__).parents[1]
RESULTS, DOCUMENT = ROOT / "benchmarks" / "results" / "exports.json", ROOT / "docs" / "exports.md"
RECIPES = ("cifar10_resnet56", "cifar10_mobilenetv2", "fsdd", "har", "snips", "ecg")
FORMATS = ("tflite", "tflite-fp16", "tflite-dynamic", "tflite-int8", "torchscript", "pt2", "onnx", "executorch")
NEEDED = {"onnx": "onnxruntime", "executorch": "executorch"}
COMPARED = 64
"""Inferences of the validation data on which a file's outputs are compared with the model's."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(RECIPES), help="recipes, joined by commas")
    parser.add_argument("--formats", default=",".join(FORMATS), help="formats, joined by commas")
    parser.add_argument("--render", action="store_true", help="measure nothing")
    given = parser.parse_args()
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    wanted = [name for name in given.formats.split(",") if find_spec(NEEDED.get(name, "torch"))]
    for name in () if given.render else given.only.split(","):
        rows[name] = rows.get(name, {"files": {}}) | measure_recipe(name, wanted, rows.get(name, {}).get("files", {}))
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    DOCUMENT.write_text(document({name: rows[name] for name in RECIPES if name in rows}, FORMATS))


def measure_recipe(name: str, wanted: Sequence[str], known: dict[str, Any]) -> dict[str, Any]:
    """The row of one recipe: its model, and every file."""
    print(f"== {name}", file=sys.stderr)
    task = load_recipe(ROOT / "recipes" / f"{name}.py")
    row: dict[str, Any] = {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()} with {torch.get_num_threads()} thread(s) for PyTorch",
        "versions": {package: version(package) for package in ("torch", "litert-torch", "ai-edge-litert", "ai-edge-quantizer")},
        "parameters": sum(parameter.numel() for parameter in task.model.parameters()),
        "metric": task.metric_name,
        "score": score(task.model, task),
    }
    with tempfile.TemporaryDirectory() as folder:
        paths, files = {}, dict(known)
        samples, probes = calibration_of(task), list(itertools.islice(validation_inputs(task), COMPARED))
        for form in wanted:
            try:
                paths[form], files[form] = measure_file(task, form, samples, probes, Path(folder))
            except EdgepruneError as error:
                files[form] = {"error": error.message}
            print(f"{form}: {files[form]}", file=sys.stderr)
        for form, latency in latencies(paths).items():
            files[form] |= latency
            print(f"{form}: {latency}", file=sys.stderr)
    return row | {"files": {form: files[form] for form in FORMATS if form in files}}


def measure_file(
    task: Task, form: str, samples: Sequence[tuple[Tensor, ...]], probes: Sequence[tuple[Tensor, ...]], folder: Path
) -> tuple[Path, dict[str, Any]]:
    """Export in one format; the path, and all that is measured without a device."""
    began = time.perf_counter()
    options = ExportOptions(metadata=task_metadata(task))
    path = export(task.model, task.example_inputs, [form], folder, task.name, calibration=samples, options=options)[form]
    seconds = time.perf_counter() - began
    loaded = formats.find(form).load(path)
    with torch.no_grad():
        expected = [[task.model(*probe)] for probe in probes]
    near, parts = fidelity(expected, [loaded(probe) for probe in probes]), sizes(path)
    return path, {
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
    for inputs, _ in task.validation:
        tensors = as_inputs(inputs)
        yield from (tuple(value[index : index + 1] for value in tensors) for index in range(tensors[0].shape[0]))


def latencies(paths: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """Of every file that a runtime here runs: each measured in turns with the float TFLite file, one thread."""
    options, found = BenchOptions(threads=1, energy=False, max_time_s=8.0), {}
    runnable = {form: path for form, path in paths.items() if formats.find(form).engine and form != "tflite"}
    if "tflite" not in paths:
        return {}
    with open_device("local:", engine=None) as device:
        for form, path in runnable.items():
            if formats.find(form).engine in device.info.runtimes:
                found |= _turns(device, paths["tflite"], form, path, options, "tflite" not in found)
    return found


def _turns(device: Device, base: Path, form: str, path: Path, options: BenchOptions, with_base: bool) -> dict[str, dict[str, Any]]:
    compared = device.compare(Artifact(base, "tflite"), [Artifact(path, form)], options)
    ratio, measured = compared.ratios[0], compared.measurements
    row = {form: {"latency_ms": measured[1].latency_ms, "ratio": ratio.ratio, "ratio_low": ratio.low, "ratio_high": ratio.high}}
    return row | ({"tflite": {"latency_ms": measured[0].latency_ms}} if with_base else {})


if __name__ == "__main__":
    main()
