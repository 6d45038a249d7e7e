"""A run's result as plain values: what run.json keeps and the report shows."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from edgeprune.bench import Measurement
from edgeprune.cost.energy import EnergyModel
from edgeprune.search.candidate import PrunedCandidate
from edgeprune.search.job import Job
from edgeprune.search.measure.micro import MicroBackend
from edgeprune.search.plan.metrics import ModelMetrics
from edgeprune.search.verdicts import judge_budget

PACKAGES = ("edgeprune", "torch", "litert-torch", "ai-edge-litert", "scipy", "numpy")


def versions() -> dict[str, str]:
    """Of Python and the packages a result depends on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def summarize(job: Job, cut: PrunedCandidate, metrics: tuple[float | None, float | None]) -> dict[str, Any]:
    """The keys that :mod:`edgeprune.report.summary` describes."""
    planner, trial = job.planner, cut.trial
    widths = {group.name: cut.pruned.plan.width(group) for group in job.analysis.groups}
    shown = (job.dense, cut.figures) if trial is None else (_of_session(job.dense, trial.dense), _of_session(cut.figures, trial.model))
    measured = (trial.dense, trial.model) if trial else (None, None)
    models = [_model(figures, metric, one, planner.energy) for figures, metric, one in zip(shown, metrics, measured, strict=True)]
    summary = {
        "task": job.task.name,
        "labels": list(job.task.labels),
        "preprocessing": job.task.preprocessing,
        "inputs": [
            {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
            for value in pytree.tree_leaves(job.task.example_inputs)
            if isinstance(value, Tensor)
        ],
        "artifacts": {name: _artifact(path, job, cut) for name, path in cut.files.items()},
        "measured": trial is not None,
        "metric_name": job.task.metric_name,
        "higher_is_better": job.task.higher_is_better,
        "dense": models[0],
        "pruned": models[1],
        "ratio": {"value": trial.ratio, "low": trial.low, "high": trial.high} if trial else None,
        "budget": judge_budget(job.task, job.budget, *shown, trial, metrics),
        "device": _device(job),
        "versions": versions(),
        "groups": [
            {"name": group.name, "kept": widths[group.name] * len(group.rows), "total": group.channels} for group in job.analysis.groups
        ],
        "candidates": [
            {
                "predicted_ms": item.predicted.latency_ms,
                "measured_ms": item.trial.model.latency_ms,
                "low_ms": item.trial.model.low_ms,
                "high_ms": item.trial.model.high_ms,
                "ratio": item.trial.ratio,
            }
            for item in job.candidates
        ],
        "final_prediction_ms": cut.predicted.latency_ms,
        "device_measurements": job.backend.measurements if job.backend else 0,
        "seconds": job.seconds(),
        "reused_measurements": job.reused,
        "history": cut.tuned.history if cut.tuned else [],
        "surgery": {"mode": cut.pruned.mode, "error": cut.pruned.error},
        "unsupported": [{"node": node, "operation": op} for node, op in job.analysis.unsupported],
        "warnings": _warnings(job, cut),
    }
    return job.backend.label(summary, cut.files[job.engine]) if isinstance(job.backend, MicroBackend) else summary


def _of_session(figures: ModelMetrics, measured: Measurement) -> ModelMetrics:
    """A model's figures as the final session measured them; what it did not measure stays as it is."""
    energy = figures.energy_mj if measured.energy_mj is None else measured.energy_mj
    return replace(figures, latency_ms=measured.latency_ms, peak_bytes=measured.peak_bytes, energy_mj=energy)


def _model(figures: ModelMetrics, metric: float | None, measured: Any, energy: EnergyModel) -> dict[str, Any]:
    return {
        "metric": metric,
        "latency_ms": figures.latency_ms,
        "low_ms": measured.low_ms if measured else None,
        "high_ms": measured.high_ms if measured else None,
        "peak_bytes": figures.peak_bytes,
        "energy_mj": figures.energy_mj,
        "energy_method": measured.energy_method if measured and measured.energy_mj is not None else f"no meter, {energy.describe()}",
        "file_bytes": figures.file_bytes,
        "macs": figures.macs,
        "parameters": figures.parameters,
    }


def _artifact(path: Path, job: Job, cut: PrunedCandidate) -> dict[str, Any]:
    """What a release compares the file and its measurements with.  A resumed run writes the bytes that it measured once more: they are as
    old as that measurement at least."""
    content, written = path.read_bytes(), time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(path.stat().st_mtime))
    digest = sha256(content).hexdigest()
    if cut.trial is not None and cut.trial.model.file_sha256 == digest:
        written = min(written, job.run_directory.recorded_at(cut.identity) or written)
    name = str(path.relative_to(job.run_directory.artifacts))
    return {"file": name, "bytes": len(content), "sha256": digest, "written_at": written}


def _device(job: Job) -> dict[str, Any]:
    if job.backend is None:
        return {"profile": job.profile.name, "latency": "predicted from the profile's prior, not measured"}
    facts = job.backend.facts
    runtime, version = facts["runtimes"][facts["engine"]]
    return {
        "target": job.backend.target,
        "device": facts["board"] or facts["cpu"],
        "architecture": facts["arch"],
        "cores": facts["cores"],
        "os": facts["os"],
        "runtime": f"{runtime} {version}",
        "threads": facts["threads"],
        "profile": job.profile.name,
    }


def _warnings(job: Job, cut: PrunedCandidate) -> list[str]:
    found = [f"{op} at {node} has no rule: what it touches stays" for node, op in job.analysis.unsupported]
    if cut.trial is not None:
        found += [f"{name}: {text}" for name, one in (("dense", cut.trial.dense), ("pruned", cut.trial.model)) for text in one.warnings]
    return found
