"""Making a task's model sparse and exporting it: to a sparsity that is given, or to a latency that is measured on a device."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Final

from safetensors import safe_open
from torch import nn

from edgeprune.bench import BenchOptions
from edgeprune.budget import Budget, format_quantity
from edgeprune.cost.sparse_kernels import SparseCost, sparse_points
from edgeprune.cost.table import Table
from edgeprune.devices import resolve_target
from edgeprune.engines import FORMATS, SPARSE, TFLITE
from edgeprune.errors import InfeasibleBudgetError, InputError, RecipeError
from edgeprune.export import ExportOptions, export
from edgeprune.export.metadata import task_metadata
from edgeprune.export.sparse.check import SparseReport, sparse_check
from edgeprune.export.sparse.format import LEAST_ZEROS
from edgeprune.graph import analyze
from edgeprune.importance.unstructured import Scope, apply_masks, quantile_masks, sparse_parameters, sparsity_of
from edgeprune.runs.directory import RunDirectory
from edgeprune.runs.events import EVENTS, RunStarted
from edgeprune.search.events import EventStream
from edgeprune.search.job import Job
from edgeprune.search.measure.backend import MeasurementBackend
from edgeprune.search.measure.opening import open_backend
from edgeprune.search.measure.paired import PairedMeasurement
from edgeprune.search.options import Options
from edgeprune.search.plan.objective import SENSITIVITY, Objective
from edgeprune.search.request import RunRequest
from edgeprune.search.run import Ended, attempt
from edgeprune.search.sparse.choice import SPARSITIES, SparseOption, measure_sparse, sparse_choice, sparse_options
from edgeprune.search.verdicts import judge_pair
from edgeprune.surgery import Plan, Pruned, apply, load, plan_from_saliency, save
from edgeprune.surgery.checkpoint import require_checkpoint, write_tensors
from edgeprune.task import Task
from edgeprune.tuning import Score, finetune, mean_divergence, outputs_on, score_with_error
from edgeprune.tuning.sparsify import sparsify
from edgeprune.verdict import Verdict

TRIAL_STEPS: Final = 24
"""Optimizer steps that every way gets before its answers are compared with the dense model's; none where ``task.fit`` trains."""

TRIAL_BATCHES: Final = 4
MEASUREMENTS: Final = 4
"""Most ways that are measured on the device before the long training."""


@dataclass(frozen=True)
class SparseSettings:
    """How weights go, see :func:`edgeprune.tuning.sparsify.sparsify`; ``epochs``: None is the task's; ``threads``: on the device."""

    scope: Scope = "layer"
    block: int = 1
    linear: bool = True
    epochs: float | None = None
    threads: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class SparseOutcome:
    """``kind``: what went: "sparse" weights, "channel"s or "both". ``sparsity`` reached over the chosen weights, and in each of ``layers``.

    ``dense_score``, ``score``: the task's metric of the dense and of the final model, with its standard error. ``files`` by format,
    ``checkpoint``: for :func:`edgeprune.load`. ``check``: what XNNPACK will do with the sparse file; None where only channels went.
    ``ratio``: of latencies to the dense model's as measured, with its interval, if there was a device; ``verdict``: on the latency budget,
    if there was one.
    """

    kind: str
    sparsity: float
    layers: dict[str, float]
    dense_score: Score | None
    score: Score | None
    files: dict[str, Path]
    checkpoint: Path
    check: SparseReport | None
    ratio: tuple[float, float, float] | None
    verdict: Verdict | None

    @property
    def met(self) -> bool | None:
        """Whether the budget is measured to be met; None where there was none."""
        return None if self.verdict is None else self.verdict == Verdict.MET


def check_sparse(sparsity: float | None, target: str | None, pruned: Path | None = None) -> None:
    """Refuse what is wrong whatever the task: nothing is loaded, connected to or written.  ``sparsity``: None is chosen for a latency.

    Raises :class:`TargetError` for an unknown target, :class:`CheckpointError` for a file that is not one, :class:`InputError` for a
    sparsity that makes nothing faster.
    """
    if target is not None:
        resolve_target(target)
    if pruned is not None:
        require_checkpoint(pruned)
    if sparsity is not None and sparsity < LEAST_ZEROS:
        raise InputError(
            f"a sparsity of {100 * sparsity:g} % is too low: a file with so few zeros is larger, and no device runs it faster",
            remedy=f"Use at least {100 * SPARSITIES[0]:.0f} %, or prune channels (edgeprune prune).",
        )


def make_sparse(
    task: Task,
    sparsity: float,
    run: RunDirectory,
    events: EventStream,
    settings: SparseSettings | None = None,
    *,
    pruned: Path | None = None,
    target: str | None = None,
) -> SparseOutcome:
    """Train the task's model, or the one in the checkpoint ``pruned``, to the share ``sparsity`` of zeros; export it dense and sparse.

    With a ``target``, the sparse file is measured there in turns with the dense one. Everything is kept in ``run``, what happens too
    (``events.jsonl``), and an interrupted training continues there. The task's model is not changed; where nothing will run faster, a note
    says so before the training.
    Raises what :func:`sparsify` and :func:`export` raise, :class:`DeviceError`.
    """
    check_sparse(sparsity, target, pruned)
    with _attempt(task, target, run, events) as (kept, ended):
        outcome = _make_sparse(task, sparsity, run, kept, settings or SparseSettings(), pruned, target)
        ended(Verdict.MET)
    return outcome


def _make_sparse(
    task: Task, sparsity: float, run: RunDirectory, events: EventStream, settings: SparseSettings, pruned: Path | None, target: str | None
) -> SparseOutcome:
    model = load(task.model, pruned) if pruned is not None else copy.deepcopy(task.model)
    sparse_parameters(model, settings.linear)
    _runs_sparse(model, task, run, events)
    dense_score = _score(task.model, task)
    layers = _train(model, task, sparsity, run, settings, events, "sparse")
    reached = _sparsity(model, settings)
    path = run.path / "model.safetensors"
    if pruned is not None:
        _save_like(pruned, model, path)
    else:
        analysis = analyze(task.model, task.example_inputs, tuple(task.protect), task.attention)
        save(path, Pruned(model, Plan(analysis.fingerprint, {}), "modules", 0.0), analysis, task.example_inputs, tuple(task.protect))
    events.note("exporting tflite and tflite-sparse")
    options = ExportOptions(metadata=task_metadata(task, model, {"sparsity": sparsity}))
    files = export(model, task.example_inputs, (TFLITE, SPARSE), run.artifacts, "sparse", options=options)
    pair = None
    if target is not None:
        asked = RunRequest(task, Budget(), target, options=Options(engine=TFLITE, threads=settings.threads, seed=settings.seed))
        backend = open_backend(asked, run, events)
        try:
            pair = backend.measure_pair(f"sparse-{sparsity:g}", files[TFLITE], files[SPARSE])
        finally:
            backend.release()
    check = sparse_check(files[SPARSE])
    return SparseOutcome("sparse", reached, layers, dense_score, _score(model, task), files, path, check, _interval(pair), None)


def sparsify_to(
    task: Task, latency: str, target: str, run: RunDirectory, events: EventStream, settings: SparseSettings | None = None
) -> SparseOutcome:
    """Meet a latency budget on ``target`` by sparse weights, fewer channels or both, whichever keeps the model's answers best.

    Dense kernels are measured, and sparse ones; every way that the models say meets the budget is trained for a moment and its answers
    compared with the dense model's; the best is measured, the prediction corrected, and the choice made again until the measurement
    meets the budget; then it is trained for ``settings.epochs``. Raises :class:`InfeasibleBudgetError` when no way meets it.
    """
    if task.train is None:
        raise RecipeError(
            f"task {task.name} has no training data", remedy="Give the task `train` batches, or choose the sparsity yourself."
        )
    with _attempt(task, target, run, events) as (kept, ended):
        outcome = _Search(task, latency, target, run, kept, settings or SparseSettings()).run()
        ended(outcome.verdict or Verdict.UNDECIDED)
    return outcome


def _attempt(task: Task, target: str | None, run: RunDirectory, events: EventStream) -> AbstractContextManager[tuple[EventStream, Ended]]:
    started = RunStarted(str(run.path), task.name, target, None, (run.path / EVENTS).exists())
    return attempt(run, events, started, f"the same command with --output {run.path}")


class _Search:
    def __init__(self, task: Task, latency: str, target: str, run: RunDirectory, events: EventStream, settings: SparseSettings) -> None:
        self.task, self.target, self.run_directory, self.events, self.settings = task, target, run, events, settings
        options = Options(engine=TFLITE, formats=(TFLITE,), epochs=settings.epochs, threads=settings.threads, seed=settings.seed)
        self.job = Job(RunRequest(task, Budget(latency=latency), target, options=options), run, events)
        self.objective: Objective
        self._losses: dict[tuple[float, tuple[int, ...]], float] = {}

    def run(self) -> SparseOutcome:
        """All of it."""
        try:
            dense_score = _score(self.task.model, self.task)
            self.job.prepare()
            self.objective = self.job.objective(self.task.model, 0, self.job.limits, SENSITIVITY)
            option = self._choose()
            return self._finish(option, dense_score)
        finally:
            self._backend.release()

    @property
    def _backend(self) -> MeasurementBackend:
        return self.job.backend

    def _choose(self) -> SparseOption:
        """The best way whose measurement meets the budget."""
        limit, planner, factor = self.job.limits["latency"], self.job.planner, 1.0
        cost, observed = self._cost(), [(planner.dense, self.job.dense.latency_ms, None)]
        for number in range(MEASUREMENTS):
            ways = sparse_options(planner, cost, self.objective.curves, {"latency": limit}, factor)
            option, losses = sparse_choice(ways, self._loss)
            ways_text = ", ".join(f"{way.kind} {100 * way.sparsity:g} %: {loss:.3g}" for way, loss in zip(ways, losses, strict=True))
            self.events.note(f"divergence from the dense model by option: {ways_text}")
            measured = self._try(option, number).ratio * self.job.dense.latency_ms
            self.events.note(
                f"{option.kind}: predicted {format_quantity('latency', option.latency_ms)}, measured {format_quantity('latency', measured)}"
            )
            if measured <= limit:
                return option
            if option.kind == "channel":
                observed.append((option.widths, measured, None))
                planner.observe(observed)
            else:
                factor *= 1.01 * measured / option.latency_ms
        raise InfeasibleBudgetError(
            f"no option was measured to meet {format_quantity('latency', limit)} in {MEASUREMENTS} measurements",
            remedy="Relax the budget a little, or choose the sparsity yourself.",
        )

    def _cost(self) -> SparseCost | None:
        """What sparse kernels cost on the device; None where XNNPACK would take none for this network."""
        runs_sparse = _runs_sparse(self.task.model, self.task, self.run_directory, self.events)
        threads = self._backend.facts["threads"]
        self._backend.release()
        points = sparse_points(self.job.planner.kernels, self.job.planner.dense) if runs_sparse else []
        table = Table.open(self.run_directory.path / "sparse-table.json")
        return measure_sparse(self.target, points, table, BenchOptions(threads=threads)) if points else None

    def _build(self, option: SparseOption) -> Pruned:
        plan = plan_from_saliency(self.job.analysis, self.objective.saliency, option.widths)
        return apply(self.task.model, self.job.analysis, plan)

    def _loss(self, option: SparseOption) -> float:
        """Divergence from the dense model after a moment of training."""
        key = (option.sparsity, tuple(option.widths.values()))
        if key not in self._losses:
            assert self.task.train is not None
            quiet = replace(self.task, validation=None, evaluate=None, fit=None)
            steps = min(1.0, TRIAL_STEPS / self.task.epoch_length()) if self.task.fit is None else 0.0
            model = self._build(option).model
            if option.sparsity:
                settings = self.settings
                sparsify(
                    model, quiet, option.sparsity, scope=settings.scope, block=settings.block, linear=settings.linear,
                    teacher=self.task.model, epochs=steps, seed=settings.seed,
                )  # fmt: skip
            else:
                finetune(model, quiet, teacher=self.task.model, epochs=steps, seed=self.settings.seed)
            batches = list(islice(self.task.batches("train"), TRIAL_BATCHES))
            with self.task.on_device(self.task.model):
                answers = outputs_on(self.task.model, batches)
            self._losses[key] = mean_divergence(model, self.task, batches, answers)
        return self._losses[key]

    def _try(self, option: SparseOption, number: int) -> PairedMeasurement:
        model = self._build(option).model
        if option.sparsity:
            parameters = sparse_parameters(model, self.settings.linear)
            apply_masks(parameters, quantile_masks(parameters, option.sparsity, self.settings.scope, self.settings.block))
        return self._measure(model, option, f"way-{number}")

    def _measure(self, model: nn.Module, option: SparseOption, name: str) -> PairedMeasurement:
        kind = SPARSE if option.sparsity else TFLITE
        file = export(model, self.task.example_inputs, (kind,), self.run_directory.artifacts, name)[kind]
        pair = self._backend.measure_pair(
            f"{name}-{option.kind}-{option.sparsity:g}", self.run_directory.artifacts / f"dense{FORMATS[TFLITE].suffix}", file
        )
        assert pair is not None, "a target measures"
        return pair

    def _finish(self, option: SparseOption, dense_score: Score | None) -> SparseOutcome:
        self._backend.release()
        pruned = self._build(option)
        layers = _train(pruned.model, self.task, option.sparsity, self.run_directory, self.settings, self.events, option.kind)
        path, analysis = self.run_directory.path / "model.safetensors", self.job.analysis
        save(path, pruned, analysis, self.task.example_inputs, tuple(self.task.protect))
        pair = self._measure(pruned.model, option, "final")
        kind = SPARSE if option.sparsity else TFLITE
        files = {kind: self.run_directory.artifacts / f"final{FORMATS[kind].suffix}"}
        check = sparse_check(files[SPARSE]) if option.sparsity else None
        reached = _sparsity(pruned.model, self.settings) if option.sparsity else 0.0
        verdict = judge_pair(self.job.budget.limits()["latency"], pair).verdict
        score = _score(pruned.model, self.task)
        return SparseOutcome(option.kind, reached, layers, dense_score, score, files, path, check, _interval(pair), verdict)


def _runs_sparse(model: nn.Module, task: Task, run: RunDirectory, events: EventStream) -> bool:
    """Whether XNNPACK would take its sparse kernels for this network; if not, a note says why."""
    model = copy.deepcopy(model)
    try:
        parameters = sparse_parameters(model, linear=False)
    except InputError as error:
        events.note(f"nothing will run faster: {error.message}")
        return False
    apply_masks(parameters, quantile_masks(parameters, SPARSITIES[-1], "layer"))
    file = export(model, task.example_inputs, (SPARSE,), run.artifacts, "check")[SPARSE]
    report = sparse_check(file)
    file.unlink()
    for finding in report.findings if not report.taken else ():
        events.note(f"nothing will run faster: {finding.operation} {finding.output}: {finding.why}. {finding.remedy}")
    return report.taken


def _train(
    model: nn.Module, task: Task, sparsity: float, run: RunDirectory, settings: SparseSettings, events: EventStream, name: str
) -> dict[str, float]:
    """Train in place, sparse unless ``sparsity`` is 0, with the task's own model as teacher; the share of zeros in each layer."""
    epochs = task.epochs_of(settings.epochs)
    given = events.training("training", epochs, task.metric_name) | {
        "teacher": copy.deepcopy(task.model),
        "epochs": epochs,
        "checkpoint": run.path / f"tune-{name}.safetensors",
        "seed": settings.seed,
    }
    if not sparsity:
        finetune(model, task, **given)
        return {}
    return sparsify(model, task, sparsity, scope=settings.scope, block=settings.block, linear=settings.linear, **given).layers


def _score(model: nn.Module, task: Task) -> Score | None:
    return score_with_error(model, task) if task.scores else None


def _sparsity(model: nn.Module, settings: SparseSettings) -> float:
    return sparsity_of(sparse_parameters(model, settings.linear))


def _interval(pair: PairedMeasurement | None) -> tuple[float, float, float] | None:
    return None if pair is None else (pair.ratio, pair.low, pair.high)


def _save_like(checkpoint: Path, model: nn.Module, path: Path) -> None:
    """The model's present weights under the plan of the checkpoint that it was loaded from."""
    with safe_open(checkpoint, framework="pt") as file:
        header = dict(file.metadata() or {})
    write_tensors(path, {name: tensor.detach().clone().contiguous() for name, tensor in model.state_dict().items()}, header)
