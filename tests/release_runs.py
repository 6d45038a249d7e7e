"""Finished runs for tests, without pruning anything: a recipe, its exported files, and what a device is said to have measured."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeprune.bench import Measurement
from edgeprune.bench.intervals import trimmed_interval
from edgeprune.errors import EdgepruneError
from edgeprune.release.build.build import build
from edgeprune.release.build.build_spec import BuildSpec
from edgeprune.runs.directory import RunDirectory, record_sha256
from edgeprune.testing.models import dense_tflite

RECIPE = """
import torch
from torch import nn
import edgeprune

def task():
    inputs = torch.randn(40, 16, generator=torch.Generator().manual_seed(0))
    model = nn.Linear(16, 8, bias=False).requires_grad_(False)
    labels = torch.arange(40) % 8
    return edgeprune.Task(model, (torch.zeros(1, 16),), validation=[(inputs[:25], labels[:25]), (inputs[25:], labels[25:])])
"""
WEIGHTS = np.random.default_rng(0).standard_normal((8, 16)).astype(np.float32)
BOARD = {
    "address": "ssh://pi@192.0.2.4",
    "cpu": "Cortex-A72",
    "arch": "aarch64",
    "cores": 4,
    "board": "Raspberry Pi 4 Model B Rev 1.4",
    "memory_bytes": 4_000_000_000,
    "os": "Debian GNU/Linux 12 (bookworm)",
    "machine": "0123456789ab",
    "runtimes": {"tflite": ["ai-edge-litert", "2.3.0"]},
    "profile": "raspberry-pi-4",
    "engine": "tflite",
    "threads": 4,
}


def measurement(content: bytes, **fields: Any) -> Measurement:
    """Of a file: 10 ms, 5 MB, 40 mJ unless given; of samples that make these latencies."""
    known: dict[str, Any] = {
        "name": "pruned",
        "latency_ms": 10.0,
        "low_ms": 9.9,
        "high_ms": 10.2,
        "p90_ms": 11.0,
        "p99_ms": 12.0,
        "peak_bytes": 5_000_000,
        "rss_peak_bytes": 60_000_000,
        "load_ms": 1.0,
        "first_ms": 12.0,
        "file_bytes": len(content),
        "energy_mj": 40.0,
        "energy_low_mj": 39.0,
        "energy_high_mj": 41.0,
        "energy_method": "INA219",
        "runtime": "ai-edge-litert",
        "runtime_version": "2.3.0",
        "threads": 4,
        "device": "Raspberry Pi 4 Model B Rev 1.4 (aarch64, 4 cores, 0123456789ab)",
        "stop_reason": "precise",
        "stable": True,
        "file_sha256": hashlib.sha256(content).hexdigest(),
    }
    known |= fields
    return Measurement(**({"samples_ns": samples_of(known), "windows": (10,) * 10} | known))


def samples_of(times: dict[str, Any]) -> tuple[int, ...]:
    """A hundred samples in ns whose median, interval and tail are ``times``, in ms by a measurement's names."""
    counts = {"low_ms": 45, "latency_ms": 10, "high_ms": 33, "p90_ms": 10, "p99_ms": 2}
    samples = [round(times[name] * 1e6) for name, count in counts.items() for _ in range(count)]
    random.Random(0).shuffle(samples)
    return tuple(samples)


def pair_of(model: Measurement) -> dict[str, Any]:
    """The record of a model that was measured in turns with one that takes twice as long."""
    log_ratios = [math.log(0.5) + 0.001 * number for number in (-3, -1, 0, 2, -2, 0, 3, 1)]
    ratio, low, high = trimmed_interval(log_ratios)
    return {"ratio": ratio, "low": low, "high": high, "log_ratios": log_ratios, "model": model.to_json()}


def make_run(folder: Path, device: dict[str, Any] | None = BOARD, weights: np.ndarray = WEIGHTS, **changes: Any) -> Path:
    """A run directory.  ``changes``: of the measurement; or of the result, those whose names it has."""
    folder.mkdir(parents=True)
    (folder / "recipe.py").write_text(RECIPE)
    run, content = RunDirectory(folder), dense_tflite(weights)
    result: dict[str, Any] = {
        "task": "Gadget Classifier",
        "labels": [f"class {number}" for number in range(8)],
        "preprocessing": {"input": "16 sensor values", "mean": [0.0], "std": [1.0]},
        "inputs": [{"shape": [1, 16], "dtype": "float32"}],
        "measured": device is not None,
        "metric_name": "accuracy",
        "dense": {"metric": 20.0, "parameters": 256.0, "macs": 256.0, "file_bytes": 2000},
        "pruned": {"metric": 15.0, "parameters": 128.0, "macs": 128.0, "file_bytes": len(content)},
        "budget": {"latency": {"text": "50%", "limit": 12.0, "met": True}},
        "versions": {"python": "3.11.7", "edgeprune": "0.1.0", "torch": "2.14.1", "scipy": "not installed"},
        "artifacts": {"tflite": artifact(run.artifacts / "pruned.tflite", content)},
    }
    result |= {name: changes.pop(name) for name in list(changes) if name in result}
    target = device["address"] if device else None
    inputs = {"task": "gadget", "target": target, "profile": None if device else "raspberry-pi-5", "recipe": str(folder / "recipe.py")}
    run.update(inputs=inputs, created="2026-01-01 00:00:00", state="done", result=result)
    if device is not None:
        run.record("device", device)
        model = measurement(content, **changes)
        run.record("final-0-abc", pair := pair_of(model))
        names = ("latency_ms", "low_ms", "high_ms", "peak_bytes", "energy_mj")
        result["pruned"] |= {name: getattr(model, name) for name in names}
        result["ratio"] = {"value": pair["ratio"], "low": pair["low"], "high": pair["high"]}
        result["artifacts"]["tflite"]["record_sha256"] = record_sha256(pair)
        run.update(result=result)
    run.close()
    return folder


def make_micro_run(folder: Path) -> Path:
    """A run for a microcontroller, whose arena is said to be 4096 bytes."""
    make_run(folder, device=None)
    content = dense_tflite(WEIGHTS)
    run = RunDirectory.reopen(folder)
    run.update(inputs=run.document["inputs"] | {"profile": "nrf5340"})
    arena = {"used_bytes": 4000, "head_bytes": 3000, "tail_bytes": 1000, "needed_bytes": 4096, "parts": {}, "version": "0.dev1"}
    record = {"arena": arena, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content), "predicted_ms": 1.0}
    run.record("final-0-abc", record)
    (run.artifacts / "c").mkdir()
    artifacts = {"tflite-int8": artifact(run.artifacts / "pruned.int8.tflite", content) | {"record_sha256": record_sha256(record)}}
    edit_result(folder, artifacts=artifacts | {"c-array": artifact(run.artifacts / "c" / "model.c", b"") | {"file": "c/model.c"}})
    run.close()
    return folder


def artifact(path: Path, content: bytes, written_at: str = "2026-01-01T00:00:00Z") -> dict[str, Any]:
    """Write an exported file, and return its entry in run.json."""
    path.write_bytes(content)
    return {"file": path.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(), "written_at": written_at}


def edit_result(run: Path, **fields: Any) -> None:
    """Change the result in run.json."""
    document = json.loads((run / "run.json").read_text())
    document["result"] |= fields
    (run / "run.json").write_text(json.dumps(document))


def edit_records(run: Path, change: Callable[[dict[str, Any]], None], trace: bool = True) -> None:
    """Change the values of the run's records by hand; without a ``trace`` as if the run had kept no hash of them."""
    lines = [json.loads(line) for line in (run / "measurements.jsonl").read_text().splitlines()]
    for line in lines:
        change(line["value"])
    (run / "measurements.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if not trace:
        document = json.loads((run / "run.json").read_text())
        for item in document["result"]["artifacts"].values():
            item.pop("record_sha256", None)
        (run / "run.json").write_text(json.dumps(document))


def age(run: Path, at: str) -> None:
    """Let everything of the run have been measured at ``at``."""
    lines = [json.loads(line) for line in (run / "measurements.jsonl").read_text().splitlines()]
    (run / "measurements.jsonl").write_text("".join(json.dumps(line | {"at": at}) + "\n" for line in lines))


def build_spec(*runs: Path, version: str = "1.4.0", **fields: object) -> BuildSpec:
    """A release of the runs, one variant each: pi4, pi5, wear."""
    names = ["pi4", "pi5", "wear"]
    return BuildSpec(runs=dict(zip(names, runs, strict=False)), version=version, **fields)  # type: ignore[arg-type]


def fails(wanted: BuildSpec | None, kind: type[EdgepruneError], said: str, tmp_path: Path) -> EdgepruneError:
    """The error of a build that must fail, and leave nothing in ``tmp_path``."""
    before = sorted(tmp_path.iterdir())
    with pytest.raises(kind, match=said) as raised:
        build(wanted)
    assert sorted(tmp_path.iterdir()) == before  # no bundle, not even a part of one
    return raised.value
