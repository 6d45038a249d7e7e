"""A candidate: a plan cut out of a model, its weights reconstructed and tuned, and its files.  A pure function of picklable inputs."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import nn

from edgeprune.budget import Budget
from edgeprune.export import start_export
from edgeprune.export.formats import calibration_for, find
from edgeprune.export.metadata import task_metadata
from edgeprune.export.options import ExportOptions
from edgeprune.graph import Analysis, analyze
from edgeprune.placement import resolve
from edgeprune.search.events import SILENT, EventStream
from edgeprune.search.fingerprint import digest_of
from edgeprune.search.measure.paired import PairedMeasurement
from edgeprune.search.plan.metrics import ModelMetrics
from edgeprune.search.plan.sensitivity import enough
from edgeprune.surgery import Plan, Pruned, apply, reconstruct
from edgeprune.task import Task
from edgeprune.tuning import TuneResult, finetune, initialized, recalibrate
from edgeprune.tuning.context import seeded
from edgeprune.tuning.frozen import changed, frozen_note, trains, unfreeze
from edgeprune.tuning.optimizer import settings_for
from edgeprune.version import code_version

RECONSTRUCTION = 4
"""Training batches that weights are reconstructed from."""


@dataclass(frozen=True)
class ExportSettings:
    """What every exported file of a run has in common: its layout, and the budget that it was made for."""

    layout: ExportOptions
    budget: Budget


@dataclass(frozen=True)
class CandidateSettings:
    """How a plan becomes a model and files.

    ``reconstruct``: solve the remaining weights again from training data, and measure batch-norm statistics; ``quick``: from less of it.
    ``scratch``: new weights. ``epochs`` of tuning; None: none. ``formats`` to export; the files are called ``name``.
    """

    export: ExportSettings
    name: str
    formats: tuple[str, ...] = ()
    reconstruct: bool = False
    quick: bool = False
    scratch: bool = False
    epochs: float | None = None
    seed: int = 0


@dataclass(frozen=True)
class Candidate:
    """``key``: see :func:`candidate_key`. ``files``: the content by format. ``export_s``: the time that exporting took."""

    pruned: Pruned
    tuned: TuneResult | None
    key: str
    files: dict[str, bytes] = field(default_factory=dict)
    export_s: float = 0.0


@dataclass(frozen=True)
class PrunedCandidate:
    """The final model of a run: what tuning did, its files, and what was measured of it (None when nothing is).  ``key``: its record."""

    pruned: Pruned
    predicted: ModelMetrics
    metrics: ModelMetrics
    pair: PairedMeasurement | None
    tuned: TuneResult | None
    files: dict[str, Path]
    key: str

    @property
    def score_key(self) -> str:
        """The record of its score."""
        return f"score-{self.key}"


def make_candidate(
    task: Task,
    plan: Plan,
    settings: CandidateSettings,
    *,
    model: nn.Module | None = None,
    analysis: Analysis | None = None,
    checkpoint: Path | None = None,
    events: EventStream = SILENT,
) -> Candidate:
    """Cut ``plan`` out of ``model`` (in the dense shapes; the task's own unless given), tune and export as ``settings`` say.

    The same arguments give the same candidate on the same hardware. A plan that cuts nothing leaves the task's own weights as they are:
    training could only lose what they have learnt elsewhere. ``analysis``: of the task's model, made again unless given.
    ``checkpoint``: a file from which an interrupted tuning continues. Nothing else is written outside a temporary folder, and no device is
    used. Raises what surgery, tuning and export raise.
    """
    model = model if model is not None else task.model
    if analysis is None:
        analysis = analyze(task.model, task.example_inputs, tuple(task.protect), task.attention)
    key = candidate_key(plan, model, settings)
    if settings.epochs and _stays(task, model, analysis, plan, settings):
        events.note("nothing has to be cut: the model stays as it was trained")
        settings = replace(settings, epochs=0.0, reconstruct=False)
    pruned = prune_and_reconstruct(task, model, analysis, plan, settings, events)
    tuned = None
    if settings.epochs is not None and (task.train is not None or task.fit is not None):
        tuned = _tune(task, analysis, pruned, settings.epochs, settings.seed, checkpoint, events)
    if not settings.formats:
        return Candidate(pruned, tuned, key)
    begun = time.monotonic()
    with TemporaryDirectory(prefix="edgeprune-") as folder:
        paths = start_files(task, pruned.model, Path(folder), settings.name, settings.formats, settings.export, events).result()
        files = {name: path.read_bytes() for name, path in paths.items()}
    return Candidate(pruned, tuned, key, files, time.monotonic() - begun)


def _stays(task: Task, model: nn.Module, analysis: Analysis, plan: Plan, settings: CandidateSettings) -> bool:
    """Whether the task's model is delivered with its own weights: ``task.fit`` and training from scratch are the user's wish."""
    given = model is task.model and task.fit is None and not settings.scratch
    return given and all(plan.width(group) == group.size for group in analysis.groups)


def prune_and_reconstruct(
    task: Task, model: nn.Module, analysis: Analysis, plan: Plan, settings: CandidateSettings, events: EventStream
) -> Pruned:
    """Cut with weights that make up for what goes, and batch-norm statistics of the smaller model, where there is data for it; or with
    new weights, to train from scratch."""
    if settings.scratch:
        return _cut(initialized(model, settings.seed), analysis, plan, events)
    if not settings.reconstruct or task.train is None:
        return _cut(model, analysis, plan, events)
    with seeded(settings.seed):  # the same batches after an interruption
        batches = list(islice(task.batches("train"), RECONSTRUCTION))
    events.begin("reconstructing", "weights from calibration data")
    solved = enough(batches) if settings.quick else batches
    pruned = _cut(reconstruct(model, analysis, plan, solved, resolve(task.device).device), analysis, plan, events)
    with task.on_device(pruned.model):
        recalibrate(pruned.model, batches if settings.quick else task.batches("train"))
    return pruned


def _cut(model: nn.Module, analysis: Analysis, plan: Plan, events: EventStream) -> Pruned:
    pruned = apply(model, analysis, plan)
    if pruned.inactive:
        why = analysis.captured.training.why if analysis.captured.training else ""
        names = ", ".join(pruned.inactive[:5])
        events.warn(f"the model was pruned in its captured graph, which has no training mode ({why}): {names} no longer act")
    return pruned


def _tune(
    task: Task, analysis: Analysis, pruned: Pruned, epochs: float, seed: int, checkpoint: Path | None, events: EventStream
) -> TuneResult:
    """Fine-tune in place with the dense model as teacher."""
    touched = changed(analysis, pruned)
    if task.unfreeze:
        unfreeze(pruned.model, touched)
    if task.fit is None and not trains(pruned.model):
        epochs = 0.0
    else:
        events.begin("fine-tuning", f"for {epochs:.3g} {'epoch' if epochs == 1 else 'epochs'}")
        if task.fit is None and task.train is not None and epochs:
            events.note(settings_for(pruned.model, task).text)
    if frozen := frozen_note(pruned.model, touched):
        events.warn(frozen)
    return finetune(
        pruned.model,
        task,
        teacher=task.model,
        epochs=epochs,
        checkpoint=checkpoint,
        seed=seed,
        **events.training("fine-tuning", epochs, task.metric_name),
    )


def start_files(
    task: Task, model: nn.Module, folder: Path, name: str, formats: Sequence[str], settings: ExportSettings, events: EventStream
) -> Future[dict[str, Path]]:
    """Export ``model``, the task's own or a pruned one, to ``folder``; the files come from the future."""
    events.begin("exporting", f"{name} to {', '.join(formats)}")
    calibration = calibration_for(task, map(find, formats))
    metadata = task_metadata(task, model if model is not task.model else None, asdict(settings.budget))
    options = replace(settings.layout, metadata=metadata, inputs=task.input_names, outputs=task.output_names)
    return start_export(model, task.example_inputs, formats, folder, name, calibration=calibration, options=options)


def candidate_key(plan: Plan, model: nn.Module, settings: CandidateSettings) -> str:
    """A short name of what :func:`make_candidate` makes within one run.

    The same plan, weights of ``model``, settings (the files' name aside) and version of the code have the same one, and others another.
    """
    given = {"plan": plan.to_json(), "model": digest_of(model), "settings": asdict(replace(settings, name="")), "code": code_version()}
    return sha256(json.dumps(given, sort_keys=True, default=str).encode()).hexdigest()[:12]


def digest(plan: Plan) -> str:
    """A short name that no other plan has."""
    return sha256(plan.to_json().encode()).hexdigest()[:12]
