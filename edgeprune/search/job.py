"""One run: from a task, a device and budgets to the best pruned model that was measured to meet them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from torch import nn

from edgeprune.batches import tensors_of
from edgeprune.bench import Measurement
from edgeprune.budget import COUNTED, counted, format_quantity
from edgeprune.cost.counts import parameters_of
from edgeprune.cost.kernels import kernels
from edgeprune.cost.prior import power_of
from edgeprune.cost.width import Widths
from edgeprune.errors import CaptureError, InfeasibleBudgetError
from edgeprune.export.formats import find
from edgeprune.graph import Analysis, analyze
from edgeprune.profile import Profile
from edgeprune.profile import load as load_profile
from edgeprune.runs.directory import RunDirectory
from edgeprune.runs.events import PlanReused
from edgeprune.search.apart import KeptCheckpoint, Setup, tune_apart
from edgeprune.search.artifacts import Artifacts
from edgeprune.search.candidate import Candidate, CandidateSettings, ExportSettings, PrunedCandidate, candidate_key, digest, make_candidate
from edgeprune.search.events import EventStream
from edgeprune.search.measure.archive import Archive
from edgeprune.search.measure.backend import Asked
from edgeprune.search.measure.decide import measure_until_decided
from edgeprune.search.measure.opening import open_backend
from edgeprune.search.measure.paired import PairedMeasurement
from edgeprune.search.online import GATED, train_online
from edgeprune.search.plan.loop import Loop, MeasuredPlan, plan_measured, refuse_narrowest
from edgeprune.search.plan.metrics import ModelMetrics, budget_utilization, measured_metrics, resolved
from edgeprune.search.plan.objective import Objective
from edgeprune.search.plan.planner import Planner, all_choices
from edgeprune.search.precision import Precision
from edgeprune.search.preflight import check_graph
from edgeprune.search.records import known_plans
from edgeprune.search.request import RunRequest
from edgeprune.search.room import warn_of_memory
from edgeprune.search.schedule import EARLY_SHARE, limits_of_stage, stage_shares
from edgeprune.search.scores import Scores
from edgeprune.search.selection import Selector
from edgeprune.search.verdicts import doubtful_share
from edgeprune.search.work import Steps, Work, Workers
from edgeprune.surgery import Plan, outputs_of, plan_from_saliency, restore, save
from edgeprune.task import device_inputs
from edgeprune.tuning.rehearse import first_batch, rehearse

RETRIES = 2
"""How often a tuned model that misses the budget, or cannot be said to meet it, is cut again."""


class Job:
    """The phases of a run.  Every expensive result is recorded in ``run`` and recalled after a restart.  The job alone holds the backend
    and writes the run directory; what it makes comes from :func:`make_candidate`, what takes long from ``workers``."""

    analysis: Analysis
    planner: Planner
    dense: ModelMetrics
    profile: Profile

    def __init__(
        self,
        request: RunRequest,
        run: RunDirectory,
        events: EventStream,
        precision: Precision | None = None,
        workers: Workers | None = None,
    ) -> None:
        self.request, self.run_directory, self.events, self.workers = request, run, events, workers or Workers()
        self.budget, self.options, self.task = request.budget, request.options, request.options.applied(request.task)
        self.backend = open_backend(request, run, events)
        self.candidates: list[MeasuredPlan] = []
        self.reused = 0
        self._begun = time.monotonic()
        self.dense_measurement: Measurement | None = None
        self._precision = precision

    # phases

    def prepare(self) -> None:
        """Analyse the model; measure (or predict) the dense one; make the cost models."""
        self.events.begin("analysing", self.task.name)
        self.analysis = analyze(self.task.model, self.task.example_inputs, tuple(self.task.protect), self.task.attention)
        if self.analysis.captured.whole is not None:
            raise CaptureError(
                f"{self.task.name} cannot be exported and measured whole: {self.analysis.captured.whole}",
                remedy="Give a recipe of its backbone, or prune it from Python with edgeprune.graph.analyze and edgeprune.surgery.apply.",
            )
        for node, op in self.analysis.unsupported:
            self.events.note(f"{op} at {node} has no rule: what it touches stays")
        check_graph(self.task, self.analysis)
        first = first_batch(self.task)
        warn_of_memory(self.task, self.analysis, first, self.events)
        if self.options.epochs_of(self.task) > 0:
            rehearse(self.task, first)
        self.profile = self.request.known_profile or load_profile(self.backend.facts.get("profile") or "generic-linux")
        self.dense_measurement = self.backend.measure_dense(self.artifacts.dense(self.engine))
        self.planner = self.new_planner()
        self._observe_dense()

    def new_planner(self) -> Planner:
        """Cost models of the analysed model where it is measured."""
        choices = all_choices(self.analysis, self.options.step or self.backend.facts.get("channel_step") or self.profile.channel_step)
        times = self.backend.kernel_times(kernels(self.analysis), choices)
        return Planner(self.analysis, times, choices, power_of(self.profile), self.precision.storage)

    def _observe_dense(self) -> None:
        measured, size = self.dense_measurement, self.artifacts.dense(self.engine).stat().st_size
        self.planner.observe_file(size)
        if measured is not None:
            self.planner.observe_dense(measured.latency_ms, measured.peak_bytes, size, measured.energy_mj)
        predicted = replace(self.planner.predict(self.planner.dense), file_bytes=size)
        self.dense = predicted if measured is None else predicted.as_measured(measured)

    @cached_property
    def artifacts(self) -> Artifacts:
        """The exported files."""
        return Artifacts(self.run_directory, self.task, ExportSettings(self.precision.layout, self.budget), self.events)

    @property
    def precision(self) -> Precision:
        """What models are measured in."""
        return self._precision or self.backend.precision

    @property
    def engine(self) -> str:
        """The format that is measured."""
        return self.precision.format

    @cached_property
    def baseline(self) -> Path:
        """The dense model's file that candidates are measured in turns with."""
        return self.artifacts.path("dense", self.engine)

    @property
    def limits(self) -> dict[str, float]:
        """The budget in absolute terms."""
        return resolved(self.budget, self.dense)

    def prune(self) -> Steps[PrunedCandidate]:
        """All stages: score, solve, measure, cut, tune; the last one's result."""
        for kind, limit in self.limits.items():
            if (dense := self.dense.of(kind)) is not None and limit >= dense:
                amounts = f"{format_quantity(kind, limit)} is not below the dense model's {format_quantity(kind, dense)}"
                self.events.note(f"the {kind} budget limits nothing: {amounts}")
        self._refuse_impossible()
        if self.options.schedule == "online":
            return (yield from self._online())
        model, shares = self.task.model, stage_shares(self.task, self.options)
        for number, epochs in enumerate(shares[:-1]):
            halfway = limits_of_stage(self.limits, self.dense, (number + 1) / len(shares))
            objective = self.objective(model, number, halfway)
            widths = self.planner.solve(objective.curves, halfway)
            made = yield from self._make_tuned(model, self._plan(objective, widths), epochs, f"stage-{number}")
            model = restore(model, self.analysis, made.pruned)
            self.planner.narrow_to(widths)
        return (yield from self._last_stage(model, shares[-1], len(shares) - 1))

    def _refuse_impossible(self) -> None:
        """Before anything is scored or trained."""
        self.planner.refuse_impossible({kind: limit for kind, limit in self.limits.items() if kind in COUNTED})
        try:
            self.planner.refuse_impossible(self.limits)
        except InfeasibleBudgetError as error:
            self.backend.confirm(error, partial(self._measure_narrowest, error))

    def _measure_narrowest(self, impossible: InfeasibleBudgetError) -> None:
        """Measure the plan by which a budget is predicted to be impossible.  Raises :class:`InfeasibleBudgetError` when it is."""
        self.events.note(f"{impossible.message}; measuring the narrowest plan to be sure")
        widths = self.planner.narrowest
        nothing = {group.name: np.zeros(group.rows.shape) for group in self.analysis.groups}
        (pair,) = self._try(self.task.model, Objective(nothing, {}), self._archive(), [widths])
        predicted, limit = self.planner.predict(widths), self.budget.limits().get("latency")
        metrics = measured_metrics(pair, self.dense.latency_ms, limit, predicted)
        self.events.emit(plan_measured(0, predicted, metrics, self.limits, pair.board))
        refuse_narrowest(metrics, self.limits)
        measured = (self.planner.dense, *(self.planner.measured_dense or (self.dense.latency_ms, self.dense.peak_bytes)))
        self.planner.observe([measured, (widths, metrics.latency_ms, metrics.peak_bytes)])

    def _online(self) -> Steps[PrunedCandidate]:
        """Train with gates while the model shrinks, then cut to what is measured to fit, and tune."""
        epochs = self.options.epochs_of(self.task)
        self.backend.release()
        model, objective = train_online(
            self.task,
            self.analysis,
            self.planner,
            lambda part: limits_of_stage(self.limits, self.dense, part),
            GATED * epochs,
            self.run_directory.path,
            self.options.seed,
            self.events,
        )
        return (yield from self._last_stage(model, (1 - GATED) * epochs, 0, objective))

    def _last_stage(self, model: nn.Module, epochs: float, stage: int, known: Objective | None = None) -> Steps[PrunedCandidate]:
        missed, over = 0.0, dict[tuple[int, ...], float]()
        objective = known or self.objective(model, stage, self.limits)
        for attempt in range(RETRIES + 1):
            if attempt:
                objective = self.objective(model, stage + attempt, self.limits, objective.name)
            try:
                widths, predicted = self._choose(objective, model, attempt, missed, over)
            except InfeasibleBudgetError as error:
                if attempt == 0:
                    raise
                self.events.note(f"the tuned model is kept as it is: {error.message}")
                break
            made = yield from self._make_tuned(
                model, self._plan(objective, widths), epochs * (EARLY_SHARE if attempt else 1.0), f"final-{attempt}", self._formats
            )
            final = self._finish(made, predicted, attempt)
            use = budget_utilization(final.metrics, self.limits)
            doubt = doubtful_share(self.budget.limits().get("latency"), final.pair)
            if final.pair is None or max(use, doubt) <= 1.0 or attempt == RETRIES:
                break
            missed = 1.0 - budget_utilization(predicted, self.limits) / max(use, doubt)
            over[tuple(widths.values())] = max(use, doubt)
            why = "is too near the latency limit to be decided" if doubt else "misses the budget"
            self.events.note(f"the tuned model {why}: pruning again")
            model = restore(model, self.analysis, made.pruned)
            self.planner.narrow_to(widths)
        return final

    def _choose(
        self, objective: Objective, model: nn.Module, attempt: int, missed: float, over: Mapping[tuple[int, ...], float]
    ) -> tuple[dict[str, int], ModelMetrics]:
        """The widths to keep: by the closed loop where candidates are measured, else by the program alone."""
        most = self.options.measurements if attempt == 0 else 2
        archive = self._archive()
        measure = partial(self._try, model, objective, archive)
        loop = Loop(self.planner, objective.curves, self.budget, self.dense, measure, self.events, most, lambda: self.backend.at_once)
        loop.tighten(max(0.01 * attempt, missed))
        loop.avoid(over)
        if archive is not None and (known := self._known_plans(archive, attempt)):
            self.events.note(f"calibrated with {counted(len(known), 'plan')} that earlier runs measured")
            loop.remember(known)
        widths = self.backend.choose(loop)
        self.candidates += loop.candidates
        return widths, self.planner.predict(widths)

    # candidates

    def _archive(self) -> Archive | None:
        return self.backend.archive(self.analysis, self.precision) if self.options.reuse else None

    def _known_plans(self, archive: Archive, attempt: int) -> list[tuple[Widths, float, float | None]]:
        """What earlier runs measured when this search began: a resumed one solves the same program, whatever was added since."""
        return known_plans(self.run_directory, f"known-plans-{attempt}", archive.observed(), set(self.planner.dense))

    def _try(
        self, model: nn.Module, objective: Objective, archive: Archive | None, plans: Sequence[dict[str, int]]
    ) -> list[PairedMeasurement]:
        """Candidates measured, now or by an earlier run; one is made while another is measured, where that disturbs nothing."""
        limit, dense = self.limits.get("latency"), self.dense_measurement
        stop_at = None if limit is None else limit / self.dense.latency_ms
        metered = dense is not None and dense.energy_mj is not None
        known = [archive.usable(widths, metered, stop_at) if archive is not None else None for widths in plans]
        asked = (self._ask(model, objective, widths, stop_at, one) for widths, one in zip(plans, known, strict=True))
        pairs = [pair for pair in self.backend.measure_pairs(self.baseline, asked) if pair is not None]
        for widths, one, pair in zip(plans, known, pairs, strict=True):
            if archive is not None and one is None:
                archive.add(widths, pair)
        return pairs

    def _ask(
        self, model: nn.Module, objective: Objective, widths: dict[str, int], stop_at: float | None, known: PairedMeasurement | None
    ) -> Asked:
        """What is to be measured of a plan: its file is made, unless it is ``known`` from an earlier run, or was measured in this one."""
        plan, settings = self._plan(objective, widths), CandidateSettings(self.artifacts.settings, "candidate", (self.engine,))
        key = f"candidate-{candidate_key(plan, model, settings)}"
        path = self.artifacts.path(key, self.engine)
        if self.run_directory.recall(key) is None:
            if known is not None:
                self.events.emit(PlanReused(known.ratio, known.low, known.high))
                self.reused += 1
                self.run_directory.record(key, known.to_json())
            elif not path.is_file():
                self.artifacts.store(key, self._make(model, plan, replace(settings, name=key)))
        return Asked(key, path, stop_at)

    def _make_tuned(self, model: nn.Module, plan: Plan, epochs: float, stage: str, formats: tuple[str, ...] = ()) -> Steps[Candidate]:
        """A candidate with reconstructed weights, or new ones, tuned, by a worker where there are any."""
        self.backend.release()
        settings = CandidateSettings(
            self.artifacts.settings,
            "pruned",
            formats[:1] if self.backend.is_remote else formats,  # the rest is exported while the device measures
            reconstruct=self.options.reconstruction,
            scratch=self.options.training == "scratch" and model is self.task.model,
            epochs=epochs,
            seed=self.options.seed,
        )
        key = candidate_key(plan, model, settings)
        tuning = f"tune-{stage}-{key}"
        name, checkpoint = f"{self.run_directory.path.name}/{tuning}", f"{tuning}.safetensors"
        if self.workers.alone:
            return (yield from Work(name, lambda _: self._make(model, plan, settings, checkpoint)).steps())
        self._keep_plan(plan)
        setup, kept = Setup.of(self.workers, self.request.task, self.options, model), KeptCheckpoint(self.run_directory, checkpoint)
        made = yield from Work(name, tune_apart, (setup, plan, settings, kept), self.events.emit, kept.keep).steps()
        return made.candidate(self.task, self.analysis, model, plan, key)

    def _make(self, model: nn.Module, plan: Plan, settings: CandidateSettings, tuning: str = "") -> Candidate:
        self._keep_plan(plan)
        checkpoint = self.run_directory.path / tuning if tuning else None
        return make_candidate(self.task, plan, settings, model=model, analysis=self.analysis, checkpoint=checkpoint, events=self.events)

    def _keep_plan(self, plan: Plan) -> None:
        self.run_directory.write(f"plans/{digest(plan)}.json", plan.to_json())

    def _finish(self, made: Candidate, predicted: ModelMetrics, attempt: int) -> PrunedCandidate:
        """Save, measure and compare the tuned model."""
        pruned = made.pruned
        self.artifacts.clear("pruned")  # of an earlier attempt: no file is ever beside another model's checkpoint
        save(self.run_directory.path / "model.safetensors", pruned, self.analysis, self.task.example_inputs, tuple(self.task.protect))
        files = self.artifacts.store("pruned", made)
        missing = tuple(name for name in self._formats if name not in files)
        later = self.artifacts.start(pruned.model, "pruned", missing) if missing else None
        key, path = f"final-{attempt}-{made.key}", files[self.engine]
        pair = measure_until_decided(self.backend, self.run_directory, self.budget, key, self.baseline, path, self.events)
        if pair is None:
            metrics = replace(predicted, file_bytes=path.stat().st_size)
        else:
            metrics = measured_metrics(pair, self.dense.latency_ms, self.budget.limits().get("latency"), predicted)
        self._check_outputs(pruned.model, path)
        files |= self.backend.shipped_with(path)
        self.backend.release()
        files |= later.result() if later is not None else {}
        metrics = replace(metrics, parameters=parameters_of(pruned.model))
        return PrunedCandidate(pruned, predicted, metrics, pair, made.tuned, files, key)

    def _check_outputs(self, model: nn.Module, path: Path) -> None:
        """What is measured computes what the model computes here, or, in a lossy precision, what the same file does."""
        inputs = device_inputs(self.task.example_inputs, self.options.seed)
        given = tuple(tensors_of(inputs))
        lossy, engine = self.precision.lossy, find(self.engine)
        self.backend.check_outputs(
            path, given, lambda: engine.run(path, given) if lossy else outputs_of(model, inputs), self.precision.tolerance
        )

    def seconds(self) -> dict[str, float]:
        """What this call has taken so far, and what of it waiting for exports."""
        return {"total": time.monotonic() - self._begun, "export": self.artifacts.seconds}

    # steps

    def objective(self, model: nn.Module, stage: int, limits: Mapping[str, float], name: str | None = None) -> Objective:
        """What every width is worth in ``model``: see :meth:`Selector.objective`."""
        self.backend.release()  # this takes a while and no device
        return self.selector.objective(model, stage, limits, name)

    @cached_property
    def selector(self) -> Selector:
        """What says which objective is followed."""
        settings = CandidateSettings(self.artifacts.settings, "compared", reconstruct=self.options.reconstruction, quick=True)
        setup = partial(Setup.of, self.workers, self.request.task, self.options)
        run, events = self.run_directory, self.events
        return Selector(self.task, self.analysis, self.planner, self.options, settings, run, events, self.workers, setup)

    def _plan(self, objective: Objective, widths: Mapping[str, int]) -> Plan:
        return plan_from_saliency(self.analysis, objective.saliency, widths)

    @property
    def _formats(self) -> tuple[str, ...]:
        """What is exported at the end, the measured one first."""
        return (self.engine,) if self.precision.exclusive else tuple(dict.fromkeys((self.engine, *self.options.formats)))

    def score(self, final: PrunedCandidate) -> float | None:
        """The task's metric of what is shipped: of the file itself where it is quantized; None when the task cannot score."""
        if self.precision.lossy:
            return self.scores.of_file(final.files[self.engine], self.engine, final.score_key)
        return self.scores.of_model(final.pruned.model, final.score_key)

    @property
    def scores(self) -> Scores:
        """What was scored in this run."""
        return Scores(self.task, self.run_directory)
