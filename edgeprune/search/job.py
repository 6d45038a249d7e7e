"""One run: from a task, a device and budgets to the best pruned model that was measured to meet them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from edgeprune.bench import BenchOptions, Measurement
from edgeprune.budget import COUNTED, Budget, format_quantity
from edgeprune.cost.counts import parameters_of
from edgeprune.cost.kernels import kernels
from edgeprune.cost.latency import KernelTimes, TableTimes
from edgeprune.cost.prior import PriorTimes, power_of
from edgeprune.cost.table import grid_of
from edgeprune.cost.weights import FLOAT32, INT8_MICRO
from edgeprune.cost.width import Widths
from edgeprune.errors import BudgetError, CaptureError, InfeasibleBudgetError, TargetError
from edgeprune.export import ExportOptions, start_export
from edgeprune.export.evaluate import score_file
from edgeprune.export.formats import calibration_for, find
from edgeprune.export.metadata import task_metadata
from edgeprune.graph import Analysis, analyze
from edgeprune.profile import Profile
from edgeprune.profile import load as load_profile
from edgeprune.runs.directory import RunDirectory
from edgeprune.search.candidate import PrunedCandidate, digest
from edgeprune.search.events import Listener
from edgeprune.search.measure.archive import Archive
from edgeprune.search.measure.device import DeviceBackend
from edgeprune.search.measure.micro import MicroBackend
from edgeprune.search.measure.paired import PairedMeasurement
from edgeprune.search.online import GATED, train_online
from edgeprune.search.options import Options
from edgeprune.search.plan.loop import Candidate, Loop, refuse_narrowest
from edgeprune.search.plan.metrics import ModelMetrics, budget_utilization, measured_metrics, resolved
from edgeprune.search.plan.objective import Objective, objective_of
from edgeprune.search.plan.planner import Planner, all_choices
from edgeprune.search.precision import FLOAT_TOLERANCE
from edgeprune.search.preflight import check_graph
from edgeprune.search.schedule import EARLY_SHARE, limits_of_stage, stage_shares
from edgeprune.surgery import Pruned, apply, outputs_of, plan_from_saliency, reconstruct, restore, save
from edgeprune.task import Task, device_inputs
from edgeprune.tuning import TuneResult, finetune, initialized, recalibrate, score
from edgeprune.tuning.context import seeded
from edgeprune.tuning.frozen import changed, frozen_note, trains, unfreeze
from edgeprune.tuning.rehearse import rehearse

RETRIES = 2
"""How often a tuned model that misses the budget is cut again."""

RECONSTRUCTION = 4
"""Training batches that weights are reconstructed from."""


class Job:
    """The phases of a run, in the order :meth:`run` calls them.  Every expensive result is recorded in ``run`` and recalled after a
    restart."""

    def __init__(
        self, task: Task, run: RunDirectory, budget: Budget, target: str | None, profile: str | None, options: Options, listener: Listener
    ) -> None:
        self.task, self.run_directory, self.budget, self.options, self.listener = options.applied(task), run, budget, options, listener
        bench_options = BenchOptions(threads=options.threads, seed=options.seed)
        self._profile_name = profile
        known = load_profile(profile) if profile is not None else None
        self.micro = known is not None and known.micro
        self.backend: DeviceBackend | MicroBackend | None = None
        if known is not None and known.micro:
            if target is not None:
                raise TargetError(f"{known.name} is a microcontroller, and {target} none", remedy="Give the profile without a target.")
            self.backend = MicroBackend(run, known, options.engine, budget, listener)
        elif target is not None:
            self.backend = DeviceBackend(run, target, options.engine, bench_options, listener)
        self.candidates: list[Candidate] = []
        self.reused = 0
        self.export_s, self._begun = 0.0, time.monotonic()
        self.analysis: Analysis
        self.planner: Planner
        self.dense: ModelMetrics
        self.profile: Profile
        self.dense_measurement: Measurement | None = None

    # phases

    def prepare(self) -> None:
        """Analyse the model; measure (or predict) the dense one; make the cost models."""
        self.listener.note(f"analysing {self.task.name}")
        self.analysis = analyze(self.task.model, self.task.example_inputs, tuple(self.task.protect), self.task.attention)
        if self.analysis.captured.whole is not None:
            raise CaptureError(
                f"{self.task.name} cannot be exported and measured whole: {self.analysis.captured.whole}",
                remedy="Give a recipe of its backbone; or cut it from Python with edgeprune.graph.analyze and edgeprune.surgery.apply.",
            )
        for node, op in self.analysis.unsupported:
            self.listener.note(f"{op} at {node} has no rule: what it touches stays")
        check_graph(self.task, self.analysis)
        if (self.task.epochs if self.options.epochs is None else self.options.epochs) > 0:
            rehearse(self.task)
        self.profile = load_profile(self._profile_name or self._matching_profile())
        choices = all_choices(self.analysis, self.options.step or self.profile.channel_step)
        storage = INT8_MICRO if self.micro else FLOAT32
        self.planner = Planner(self.analysis, self._times(choices), choices, power_of(self.profile), storage)
        self._measure_dense()

    def _matching_profile(self) -> str:
        facts = self.backend.facts if self.backend else {}
        return facts.get("profile") or "generic-linux"

    def _times(self, choices: dict[str, list[int]]) -> KernelTimes:
        if self.backend is None:
            return PriorTimes(self.profile)
        if isinstance(self.backend, MicroBackend):
            return self.backend.times()
        grids = [grid_of(kernel, choices) for kernel in kernels(self.analysis)]
        return TableTimes(self.backend.table(grids), choices)

    def _measure_dense(self) -> None:
        files = self._export(self.task.model, "dense", (self.engine,))
        size = files[self.engine].stat().st_size
        if self.backend is None:
            self.planner.file_offset += size - self.planner.predict(self.planner.dense).file_bytes
            predicted = self.planner.predict(self.planner.dense)
            self.dense = replace(predicted, file_bytes=size)
            return
        measured = self.backend.measure_dense(files[self.engine])
        self.planner.observe_dense(measured.latency_ms, measured.peak_bytes, size, measured.energy_mj)
        predicted = self.planner.predict(self.planner.dense)
        energy = measured.energy_mj if measured.energy_mj is not None else predicted.energy_mj
        self.dense = ModelMetrics(measured.latency_ms, measured.peak_bytes, energy, size, predicted.macs, predicted.parameters)
        self.dense_measurement = measured

    @property
    def engine(self) -> str:
        """The format that is measured."""
        return str(self.backend.facts["engine"]) if self.backend else (self.options.engine or "tflite")

    @property
    def latency_is_relative(self) -> bool:
        """Whether latency is judged by its ratio to the dense model's."""
        limit = self.budget.limits().get("latency")
        return limit is None or limit.relative

    @property
    def limits(self) -> dict[str, float]:
        """The budget in absolute terms."""
        return resolved(self.budget, self.dense)

    def dry_run(self) -> dict[str, Any]:
        """The plan the program chooses first, and its prediction."""
        self.prepare()
        if self.options.schedule in ("iterative", "online"):
            self.listener.note(f"the {self.options.schedule} schedule goes in steps: this is the plan of a single cut")
        self.planner.refuse_impossible(self.limits)
        value = self._value(self.task.model, "value-0")
        widths = self.planner.solve(value.curves, self.limits)
        predicted = self.planner.predict(widths)
        groups = [
            {"name": group.name, "kept": widths[group.name] * len(group.rows), "total": group.channels} for group in self.analysis.groups
        ]
        return {"groups": groups, "dense": asdict(self.dense), "predicted": asdict(predicted), "limits": self.limits, "measured": False}

    def prune(self) -> PrunedCandidate:
        """All stages: score, solve, measure, cut, tune; the last one's result."""
        if not self.limits:
            raise BudgetError(
                "no budget was given", remedy="Give at least one of latency, memory, energy, size, for example --latency 50%."
            )
        for kind, limit in self.limits.items():
            if (dense := self.dense.of(kind)) is not None and limit >= dense:
                amounts = f"{format_quantity(kind, limit)} is no less than the dense model's {format_quantity(kind, dense)}"
                self.listener.note(f"the {kind} budget limits nothing: {amounts}")
        self._refuse_impossible()
        if self.options.schedule == "online":
            return self._online()
        model, shares = self.task.model, stage_shares(self.task, self.options, self.limits, self.dense)
        for number, epochs in enumerate(shares[:-1]):
            value = self._value(model, f"value-{number}")
            halfway = limits_of_stage(self.limits, self.dense, (number + 1) / len(shares))
            widths = self.planner.solve(value.curves, halfway)
            pruned = self._prune_and_reconstruct(model, value, widths)
            self._tune(pruned, epochs, f"stage-{number}")
            model = restore(model, self.analysis, pruned)
            self._narrow_to(widths)
        return self._last_stage(model, shares[-1], len(shares) - 1)

    def _refuse_impossible(self) -> None:
        """Before anything is scored or trained.  A device has the last word on what it measures: the narrowest plan is tried there."""
        self.planner.refuse_impossible({kind: limit for kind, limit in self.limits.items() if kind in COUNTED})
        try:
            self.planner.refuse_impossible(self.limits)
        except InfeasibleBudgetError as error:
            if self.backend is None:
                raise
            self.listener.note(f"{error.message}: measuring that plan")
            widths = self.planner.narrowest
            nothing = {group.name: np.zeros(group.rows.shape) for group in self.analysis.groups}
            trial = self._try(self.task.model, Objective(nothing, {}), widths, self._archive())
            figures = measured_metrics(trial, self.dense.latency_ms, self.budget.limits().get("latency"), self.planner.predict(widths))
            refuse_narrowest(figures, self.limits)
            measured = (self.planner.dense, *(self.planner.measured_dense or (self.dense.latency_ms, self.dense.peak_bytes)))
            self.planner.observe([measured, (widths, figures.latency_ms, figures.peak_bytes)])

    def _online(self) -> PrunedCandidate:
        """Train with gates while the model shrinks, then cut to what is measured to fit, and tune."""
        epochs = self.task.epochs if self.options.epochs is None else self.options.epochs
        if self.backend is not None:
            self.backend.release()
        model, value = train_online(
            self.task,
            self.analysis,
            self.planner,
            lambda part: limits_of_stage(self.limits, self.dense, part),
            GATED * epochs,
            self.run_directory.path,
            self.options.seed,
            self.listener,
        )
        return self._last_stage(model, (1 - GATED) * epochs, 0, value)

    def _last_stage(self, model: nn.Module, epochs: float, stage: int, known: Objective | None = None) -> PrunedCandidate:
        missed, over = 0.0, dict[tuple[int, ...], float]()
        for attempt in range(RETRIES + 1):
            value = known if known is not None and attempt == 0 else self._value(model, f"value-{stage + attempt}")
            try:
                widths, predicted = self._choose(value, model, attempt, missed, over)
            except InfeasibleBudgetError as error:
                if attempt == 0:
                    raise
                self.listener.note(f"the tuned model stays as it is: {error.message}")
                break
            pruned = self._prune_and_reconstruct(model, value, widths)
            tuned = self._tune(pruned, epochs * (EARLY_SHARE if attempt else 1.0), f"final-{attempt}")
            cut = self._finish(pruned, predicted, tuned, attempt)
            use = budget_utilization(cut.figures, self.limits)
            if cut.trial is None or use <= 1.0 or attempt == RETRIES:
                break
            missed = 1.0 - budget_utilization(predicted, self.limits) / use
            over[tuple(widths.values())] = use
            self.listener.note("the tuned model misses the budget: cutting again")
            model = restore(model, self.analysis, pruned)
            self._narrow_to(widths)
        return cut

    def _choose(
        self, value: Objective, model: nn.Module, attempt: int, missed: float, over: Mapping[tuple[int, ...], float]
    ) -> tuple[dict[str, int], ModelMetrics]:
        """The widths to keep: by the closed loop on a device, else by the program alone."""
        if self.backend is None:
            widths = self.planner.solve(value.curves, self.limits)
            predicted = self.planner.predict(widths)
            return widths, predicted

        most = self.options.measurements if attempt == 0 else 2
        archive = self._archive()
        loop = Loop(
            self.planner,
            value.curves,
            self.budget,
            self.dense,
            lambda widths: self._try(model, value, widths, archive),
            self.listener,
            most,
        )
        loop.tighten(max(0.01 * attempt, missed))
        loop.avoid(over)
        if archive is not None and (known := self._known_plans(archive, attempt)):
            self.listener.note(f"calibrated with {len(known)} plans that earlier runs measured")
            loop.remember(known)
        chosen = loop.run()
        self.candidates += loop.candidates
        predicted = self.planner.predict(chosen.widths)
        return chosen.widths, predicted

    def _archive(self) -> Archive | None:
        if not isinstance(self.backend, DeviceBackend) or not self.options.reuse:
            return None
        facts = self.backend.facts
        return Archive.of(facts["key"], facts["threads"], self.analysis)

    def _known_plans(self, archive: Archive, attempt: int) -> list[tuple[Widths, float, float | None]]:
        """What earlier runs measured when this search began: a resumed one solves the same program, whatever was added since."""
        key = f"known-plans-{attempt}"
        if self.run_directory.recall(key) is None:
            fitting = [item for item in archive.observed() if item[0].keys() == self.planner.dense.keys()]
            self.run_directory.record(key, {"plans": fitting})
        return [(widths, ratio, peak) for widths, ratio, peak in (self.run_directory.recall(key) or {"plans": []})["plans"]]

    def _try(self, model: nn.Module, value: Objective, widths: dict[str, int], archive: Archive | None) -> PairedMeasurement:
        """A candidate measured, now or by an earlier run."""
        assert self.backend is not None
        plan = plan_from_saliency(self.analysis, value.saliency, widths)
        key = f"candidate-{digest(plan)}"
        path, known = Path(), archive.find(widths) if archive is not None else None
        if known is not None and known.model.energy_mj is None and self.dense_measurement and self.dense_measurement.energy_mj is not None:
            known = None  # it was measured without the meter that there is now
        if self.run_directory.recall(key) is None:
            if known is not None:
                self.listener.note("an earlier run measured this plan")
                self.reused += 1
                self.run_directory.record(key, known.to_json())
                return known
            path = self._export(self._cut(model, value, widths).model, key, (self.engine,))[self.engine]
        trial = self.backend.measure_pair(key, self._dense_file, path)
        if archive is not None and known is None:
            archive.add(widths, trial)
        return trial

    def _finish(self, pruned: Pruned, predicted: ModelMetrics, tuned: TuneResult | None, attempt: int) -> PrunedCandidate:
        """Save, export, measure and compare the tuned model."""
        save(self.run_directory.path / "model.safetensors", pruned, self.analysis, self.task.example_inputs, tuple(self.task.protect))
        formats = (self.engine,) if self.micro else tuple(dict.fromkeys((self.engine, *self.options.formats)))
        apart = isinstance(self.backend, DeviceBackend) and self.backend.apart
        first = (self.engine,) if apart else formats  # the rest is exported here while the device measures
        files = self._export(pruned.model, "pruned", first, replace_old=True)
        later = self._start_export(pruned.model, "pruned", formats[1:]) if apart and formats[1:] else None
        name = f"final-{attempt}-{digest(pruned.plan)}"
        if self.backend is None:
            figures = replace(predicted, file_bytes=files[self.engine].stat().st_size, parameters=parameters_of(pruned.model))
            return PrunedCandidate(pruned, predicted, figures, None, tuned, files, name)
        trial = self.backend.measure_pair(name, self._dense_file, files[self.engine])
        figures = measured_metrics(trial, self.dense.latency_ms, self.budget.limits().get("latency"), predicted)
        figures = replace(figures, parameters=parameters_of(pruned.model))
        if isinstance(self.backend, MicroBackend):
            self.backend.check_outputs(files[self.engine], self.task.example_inputs, self.options.seed)
            files["c-array"] = self.backend.c_array(files[self.engine])
        else:
            self._check_outputs(pruned.model, files[self.engine])
        self.backend.release()
        files |= later.result() if later is not None else {}
        return PrunedCandidate(pruned, predicted, figures, trial, tuned, files, name)

    def seconds(self) -> dict[str, float]:
        """What this call has taken so far, and what of it waiting for exports."""
        return {"total": time.monotonic() - self._begun, "export": self.export_s}

    # steps

    def _value(self, model: nn.Module, key: str) -> Objective:
        if self.backend is not None and self.run_directory.recall(key) is None:
            self.backend.release()  # this takes a while and no device
        task = replace(self.task, model=model)
        return objective_of(
            task,
            self.analysis,
            self.planner.choices,
            self.options.criterion,
            self.options.sensitivity,
            self.run_directory,
            key,
            self.listener,
        )

    def _cut(self, model: nn.Module, value: Objective, widths: Mapping[str, int]) -> Pruned:
        plan = plan_from_saliency(self.analysis, value.saliency, widths)
        self.run_directory.write(f"plans/{digest(plan)}.json", plan.to_json())
        pruned = apply(model, self.analysis, plan)
        if pruned.inactive:
            why = self.analysis.captured.training.why if self.analysis.captured.training else ""
            self.listener.note(
                f"cut in the graph, which has no training of its own ({why}): {', '.join(pruned.inactive[:5])} no longer act"
            )
        return pruned

    def _prune_and_reconstruct(self, model: nn.Module, value: Objective, widths: Mapping[str, int]) -> Pruned:
        """Cut with weights that make up for what goes, and batch-norm statistics of the smaller model, where there is data for it; or with
        new weights, to train from scratch."""
        if self.options.training == "scratch" and model is self.task.model:
            return self._cut(initialized(model, self.options.seed), value, widths)
        if self.task.train is None or not self.options.reconstruction:
            return self._cut(model, value, widths)
        with seeded(self.options.seed):  # the same batches after an interruption
            batches = list(islice(self.task.batches("train"), RECONSTRUCTION))
        self.listener.note("reconstructing weights from calibration data")
        plan = plan_from_saliency(self.analysis, value.saliency, widths)
        pruned = self._cut(reconstruct(model, self.analysis, plan, batches), value, widths)
        recalibrate(pruned.model, self.task.batches("train"))
        return pruned

    def _tune(self, pruned: Pruned, epochs: float, stage: str) -> TuneResult | None:
        """Fine-tune with the dense model as teacher; nothing to do without training data."""
        if self.task.train is None and self.task.fit is None:
            return None
        if self.backend is not None:
            self.backend.release()
        touched = changed(self.analysis, pruned)
        if self.task.unfreeze:
            unfreeze(pruned.model, touched)
        if self.task.fit is not None or trains(pruned.model):
            self.listener.note(f"fine-tuning for {epochs:.3g} epochs")
        if frozen := frozen_note(pruned.model, touched):
            self.listener.note(frozen)
        return finetune(
            pruned.model,
            self.task,
            teacher=self.task.model,
            epochs=epochs,
            on_progress=lambda done, total, loss: self.listener.progress(f"fine-tuning (loss {loss:.3f})", done, total),
            checkpoint=self.run_directory.path / f"tune-{stage}-{digest(pruned.plan)}.safetensors",
            seed=self.options.seed,
        )

    def _export(self, model: nn.Module, name: str, formats: tuple[str, ...], replace_old: bool = False) -> dict[str, Path]:
        folder = self.run_directory.artifacts
        found = {format_name: folder / f"{name}{find(format_name).suffix}" for format_name in formats}
        if not replace_old and all(path.is_file() for path in found.values()):
            return found
        begun = time.monotonic()
        files = self._start_export(model, name, formats).result()
        self.export_s += time.monotonic() - begun
        return files

    def _start_export(self, model: nn.Module, name: str, formats: tuple[str, ...]) -> Future[dict[str, Path]]:
        self.listener.note(f"exporting {name} to {', '.join(formats)}")
        calibration = calibration_for(self.task, map(find, formats))
        metadata = task_metadata(self.task, model if model is not self.task.model else None, asdict(self.budget))
        options = ExportOptions(integer_io=self.micro, channels_last=self.micro, metadata=metadata)
        folder = self.run_directory.artifacts
        return start_export(model, self.task.example_inputs, formats, folder, name, calibration=calibration, options=options)

    @property
    def _dense_file(self) -> Path:
        return self.run_directory.artifacts / f"dense{find(self.engine).suffix}"

    def _narrow_to(self, widths: Mapping[str, int]) -> None:
        self.planner.choices = {
            name: [choice for choice in choices if choice <= widths[name]] for name, choices in self.planner.choices.items()
        }

    def _check_outputs(self, model: nn.Module, path: Path) -> None:
        """The device computes what the host computes."""
        assert isinstance(self.backend, DeviceBackend)
        inputs = device_inputs(self.task.example_inputs, self.options.seed)
        self.backend.compare_outputs(path, inputs, outputs_of(model, inputs), FLOAT_TOLERANCE)

    def score(self, model: nn.Module, key: str) -> float | None:
        """The task's metric; None when the task cannot score."""
        return self._scored(key, lambda: score(model, self.task))

    def score_cut(self, cut: PrunedCandidate) -> float | None:
        """The task's metric of what is shipped: of the file itself where it is quantized."""
        return self.score_file(cut) if self.micro else self.score(cut.pruned.model, f"score-{cut.identity}")

    def score_file(self, cut: PrunedCandidate) -> float | None:
        """The task's metric of the file that was measured; None when the task cannot score."""
        path, engine = cut.files[self.engine], self.engine
        return self._scored(f"score-file-{cut.identity}", lambda: score_file(path, self.task, engine))

    def _scored(self, key: str, compute: Callable[[], float]) -> float | None:
        """What ``compute`` says, once in a run; None when the task cannot score."""
        if not self.task.scores:
            return None
        known = self.run_directory.recall(key)
        if known is None:
            known = {"metric": compute()}
            self.run_directory.record(key, known)
        return float(known["metric"])
