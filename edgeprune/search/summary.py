"""A job's result as a summary: what run.json keeps and the report shows."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from torch import Tensor
from torch.utils import _pytree as pytree

from edgeprune.bench import Measurement
from edgeprune.cost.energy import EnergyModel
from edgeprune.profile import Profile
from edgeprune.runs.directory import record_sha256
from edgeprune.runs.summary import (
    ArtifactSummary,
    BatterySummary,
    CandidateSummary,
    EpochSummary,
    GroupSummary,
    InputSummary,
    ModelSummary,
    ObjectiveSummary,
    RatioSummary,
    RunSummary,
    SessionSummary,
)
from edgeprune.search.candidate import PrunedCandidate
from edgeprune.search.details import layers_of, origin_of, percentiles_ms, session_of
from edgeprune.search.job import Job
from edgeprune.search.measure.decide import recall_final
from edgeprune.search.plan.loop import MeasuredPlan
from edgeprune.search.plan.metrics import ModelMetrics
from edgeprune.search.scores import DENSE
from edgeprune.search.verdicts import judge_budget
from edgeprune.task import Task
from edgeprune.tuning import Score

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


def summarize(job: Job, final: PrunedCandidate, precision: str) -> RunSummary:
    """The result of ``job``."""
    metrics = job.scores.recorded(DENSE), job.scores.recorded(final.score_key)
    pair, task, before = final.pair, job.task, job.run_directory.document
    widths = {group.name: final.pruned.plan.width(group) for group in job.analysis.groups}
    shown = (job.dense, final.metrics) if pair is None else (job.dense.as_measured(pair.dense), final.metrics.as_measured(pair.model))
    measured = (pair.dense, pair.model) if pair else (None, None)
    dense, pruned = (
        _model(figures, metric, one, job.planner.energy) for figures, metric, one in zip(shown, metrics, measured, strict=True)
    )
    summary = RunSummary(
        task=task.name,
        target=job.request.target and job.backend.target,
        created=str(before.get("created")),
        labels=list(task.labels),
        preprocessing=task.preprocessing,
        inputs=_inputs(task),
        artifacts={name: _artifact(path, job, final) for name, path in final.files.items()},
        measured=pair is not None,
        metric_name=task.metric_name,
        metric_unit=task.metric_unit,
        metric_error_method=metrics[1].how if metrics[1] else None,
        higher_is_better=task.higher_is_better,
        dense=dense,
        pruned=pruned,
        ratio=RatioSummary(pair.ratio, pair.low, pair.high) if pair else None,
        budget=judge_budget(task, job.budget, *shown, pair, metrics),
        device={**job.backend.description(), "profile": job.profile.name},
        versions=versions(),
        precision=precision,
        groups=[GroupSummary(group.name, widths[group.name] * len(group.rows), group.channels) for group in job.analysis.groups],
        objectives=[
            ObjectiveSummary(one.stage, item.name, item.divergence, item.latency_ms, item.name == one.chosen, item.raced)
            for one in job.selector.selections
            for item in one.tried
        ],
        candidates=[_candidate(item) for item in job.candidates],
        final_prediction_ms=final.predicted.latency_ms,
        device_measurements=job.backend.measurements,
        reused_measurements=job.reused,
        seconds=job.seconds(),
        history=[_epoch(entry) for entry in final.tuned.history] if final.tuned else [],
        surgery={"mode": final.pruned.mode, "error": final.pruned.error},
        unsupported=[{"node": node, "operation": op} for node, op in job.analysis.unsupported],
        warnings=_warnings(job, final),
        battery=battery_of(task, job.profile),
        layers=layers_of(job.planner.latency, job.planner.dense, widths),
        layers_measured=job.planner.latency.times.measured,
        samples={name: percentiles_ms(one) for name, one in zip(("dense", "pruned"), measured, strict=True) if one is not None},
        sessions=_sessions(job, final),
        origin=origin_of(before.get("inputs") or {}),
    )
    return job.backend.label(summary, final.files[job.engine])


def battery_of(task: Task, profile: Profile) -> BatterySummary | None:
    """The battery that the task or the device's profile states, where the task says how often it infers."""
    capacity, source = (task.battery_mwh, "recipe") if task.battery_mwh is not None else (profile.battery_mwh, f"profile {profile.name}")
    if task.inferences_per_day is None or capacity is None:
        return None
    return BatterySummary(capacity, task.inferences_per_day, source)


def _inputs(task: Task) -> list[InputSummary]:
    tensors = [value for value in pytree.tree_leaves(task.example_inputs) if isinstance(value, Tensor)]
    return [InputSummary(list(value.shape), str(value.dtype).removeprefix("torch.")) for value in tensors]


def _epoch(entry: Mapping[str, float | None]) -> EpochSummary:
    return EpochSummary(entry["epoch"] or 0, *(entry.get(name) for name in ("step", "loss", "learning_rate", "score")))


def _candidate(item: MeasuredPlan) -> CandidateSummary:
    model = item.pair.model
    return CandidateSummary(item.predicted.latency_ms, model.latency_ms, model.low_ms, model.high_ms, item.pair.ratio, item.pair.board)


def _sessions(job: Job, final: PrunedCandidate) -> list[SessionSummary]:
    """Every measurement of this run, in order."""
    named = [("dense", job.dense_measurement)]
    named += [(f"plan {number}", item.pair.model) for number, item in enumerate(job.candidates, 1)]
    named += [("pruned", final.pair.model)] if final.pair else []
    return [session_of(name, one) for name, one in named if one is not None and one.samples_ns]


def _model(figures: ModelMetrics, score: Score | None, measured: Measurement | None, energy: EnergyModel) -> ModelSummary:
    metered = measured is not None and measured.energy_mj is not None
    return ModelSummary(
        metric=score.value if score else None,
        metric_error=score.error if score else None,
        latency_ms=figures.latency_ms,
        low_ms=measured.low_ms if measured else None,
        high_ms=measured.high_ms if measured else None,
        peak_bytes=figures.peak_bytes,
        energy_mj=figures.energy_mj,
        energy_method=measured.energy_method if measured and metered else f"no meter, {energy.describe()}",
        file_bytes=figures.file_bytes,
        macs=figures.macs,
        parameters=figures.parameters,
        energy_measured=metered,
    )


def _artifact(path: Path, job: Job, final: PrunedCandidate) -> ArtifactSummary:
    """What a release compares the file and its measurements with.  A resumed run writes the bytes that it measured once more: they are as
    old as that measurement at least."""
    content, written = path.read_bytes(), time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(path.stat().st_mtime))
    digest = sha256(content).hexdigest()
    record = None
    if final.pair is not None and final.pair.model.file_sha256 == digest:
        written = min(written, job.run_directory.recorded_at(final.key) or written)
        record = recall_final(job.run_directory, final.key)
    name = str(path.relative_to(job.run_directory.artifacts))
    return ArtifactSummary(name, len(content), digest, written, record_sha256(record) if record else None)


def _warnings(job: Job, final: PrunedCandidate) -> list[str]:
    found = [f"{op} at {node} has no rule: what it touches stays" for node, op in job.analysis.unsupported]
    if final.pair is not None:
        found += [f"{name}: {text}" for name, one in (("dense", final.pair.dense), ("pruned", final.pair.model)) for text in one.warnings]
    return found
