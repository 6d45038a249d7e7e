"""Every method of the search benchmark, from a budget to the model to fine-tune."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

from torch import nn

import edgeprune
from benchmarks.search.cases import ALONE, PEERS, RECONSTRUCTED, Row, Rows
from benchmarks.search.meet import Built, Found, Timed, meet
from benchmarks.search.peers import FastNAS, TorchPruning, kept
from benchmarks.search.session import THREADS, Session, macs_of, parameters_of
from edgeprune.errors import DeviceError, EdgepruneError
from edgeprune.search import Options
from edgeprune.search.baselines import BASELINES
from edgeprune.search.candidate import RECONSTRUCTION
from edgeprune.surgery import Plan, apply, reconstruct, save

OURS = {"edgeprune": "auto", ALONE: "sensitivity"}
"""The objective of edgeprune's own methods."""


@dataclass
class Methods:
    """The methods on one model.  What a method keeps between budgets is made when it is first wanted."""

    session: Session
    rows: Rows
    _peers: dict[str, TorchPruning | FastNAS] = field(default_factory=dict)
    _tried: list[Row] = field(default_factory=list)

    def recall_observed(self) -> None:
        """Give the planner what earlier calls measured."""
        for row in self.rows.of("search"):
            for one in row.get("tried", []):
                if one.get("widths"):
                    self.session.observe(one["widths"], one["ratio"] * self.session.dense.latency_ms)

    def search(self, method: str, budget: float, again: bool = False) -> Row:
        """The search's row: the nearest below the budget, found and kept; or ``error``, why there is none. Once, unless ``again``."""
        session = self.session
        known = self.rows.get("search", session.case.name, method, budget)
        if known is not None and not again and (known["error"] or self._folder(method, budget).is_dir()):
            return known
        session.notes.note(f"{method} at {100 * budget:g} %: searching")
        session.restart_data()
        started, cpu, self._tried = time.perf_counter(), time.process_time(), []
        try:
            row = self._searched(method, budget)
        except DeviceError:
            raise  # says nothing of the method
        except Exception as error:
            if method not in PEERS and not isinstance(error, EdgepruneError):
                raise
            row = {"error": _reason(error), "tried": self._tried, "measurements": len(self._tried)}
        session.backend.release()
        row |= {
            "kind": "search",
            "method": method,
            "budget": budget,
            "search_s": time.perf_counter() - started,
            "search_cpu_s": time.process_time() - cpu,
        }
        row = {"error": None} | row | session.provenance()
        self.rows.add(row)
        return row

    def model(self, method: str, budget: float) -> nn.Module:
        """The found model, with batch-norm statistics measured again."""
        folder, dense = self._folder(method, budget), self.session.task.model
        model = kept(dense, folder) if (folder / "peer.safetensors").is_file() else edgeprune.load(dense, folder / "model.safetensors")
        self.session.recalibrate(model)
        return model

    def _folder(self, method: str, budget: float) -> Path:
        return self.session.cache / f"{method}-{100 * budget:g}"

    def _searched(self, method: str, budget: float) -> Row:
        if method in OURS:
            return self._edgeprune(method, budget)
        if method.endswith(RECONSTRUCTED):
            return self._reconstructed(method, budget)
        return self._steered(method, budget)

    def _reconstructed(self, method: str, budget: float) -> Row:
        """The plan of the method without reconstruction, which is as fast, with other weights."""
        plain = method.removesuffix(RECONSTRUCTED)
        row = self.search(plain, budget)
        if row["error"]:
            return {name: row[name] for name in ("error", "tried", "measurements")}
        task, context, folder = self.session.task, self.session.context, self._folder(method, budget)
        plan = Plan.from_json((self._folder(plain, budget) / "plan.json").read_text())
        batches = list(islice(task.batches("train"), RECONSTRUCTION))
        pruned = apply(reconstruct(task.model, context.analysis, plan, batches), context.analysis, plan)
        folder.mkdir(parents=True, exist_ok=True)
        save(folder / "model.safetensors", pruned, context.analysis, task.example_inputs, tuple(task.protect))
        return dict(row)

    def _steered(self, method: str, budget: float) -> Row:
        """A method whose knob is turned until the measurement is at the budget."""
        session = self.session

        def measure(built: Built) -> Timed:
            predicted = session.context.latency_ms(built.widths) if built.widths else None
            calibrated = len(session.observed)
            trial = session.measure(built.model, built.key)
            timed = Timed(trial.ratio, trial.low, trial.high, trial.ratio * session.dense.latency_ms)
            if built.widths:
                session.observe(built.widths, timed.latency_ms)
            step = {"x": built.x, "ratio": timed.ratio, "predicted_ms": predicted, "measured_ms": timed.latency_ms}
            self._tried.append(step | {"widths": built.widths, "calibrated_on": calibrated})
            session.notes.note(f"{method} at {100 * budget:g} %: {100 * timed.ratio:.1f} % measured at {100 * built.x:.1f} %")
            return timed

        if method in BASELINES:
            found = meet(lambda x: self._own(method, x), measure, budget)
        else:
            earlier = [one for row in self.rows.of("search") if row["method"] == method for one in row.get("tried", [])]
            found = meet(self._peer(method), measure, budget, [(one["x"], one["ratio"]) for one in earlier])
        self._keep(found, method, budget)
        return self._row(found)

    def _keep(self, found: Found, method: str, budget: float) -> None:
        folder = self._folder(method, budget)
        folder.mkdir(parents=True, exist_ok=True)
        found.built.save(folder)

    def _row(self, found: Found) -> Row:
        timed, model = found.timed, found.built.model
        return {
            "ratio": timed.ratio,
            "low": timed.low,
            "high": timed.high,
            "latency_ms": timed.latency_ms,
            "macs": macs_of(model, self.session.task.example_inputs),
            "parameters": parameters_of(model),
            "tried": self._tried,
            "measurements": len(self._tried),
        }

    def _own(self, method: str, x: float) -> Built:
        context, task = self.session.context, self.session.task
        dense_ms = context.latency_ms(context.planner.dense)
        plan = BASELINES[method](context, x * dense_ms)
        widths = {group.name: plan.width(group) for group in context.analysis.groups}
        pruned = apply(task.model, context.analysis, plan)

        def keep(folder: Path) -> None:
            save(folder / "model.safetensors", pruned, context.analysis, task.example_inputs, tuple(task.protect))
            (folder / "plan.json").write_text(plan.to_json())

        return Built(pruned.model, _digest(plan), context.latency_ms(widths) / dense_ms, keep, widths)

    def _peer(self, method: str) -> TorchPruning | FastNAS:
        if method not in self._peers:
            case, task = self.session.case, self.session.task
            fastnas = method == "fastnas"
            self._peers[method] = (
                FastNAS(case, task, self.session.cache) if fastnas else TorchPruning(case, task, method == "tp-isomorphic")
            )
        return self._peers[method]

    def _edgeprune(self, method: str, budget: float) -> Row:
        """The public search without fine-tuning, which follows for every method alike."""
        result = self.prune(method, budget)
        folder = self._folder(method, budget)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.safetensors").write_bytes(result.checkpoint.read_bytes())
        widths = {group.name: result.plan.width(group) for group in self.session.context.analysis.groups}
        measured = result.figures.pruned.latency_ms
        assert measured is not None, "the device measured it"
        predicted, calibrated = self.session.context.latency_ms(widths), len(self.session.observed)
        self.session.observe(widths, measured)
        return self.figures(result) | {
            "final": {"widths": widths, "predicted_ms": predicted, "measured_ms": measured, "calibrated_on": calibrated}
        }

    def prune(self, method: str, budget: float) -> edgeprune.Result:
        """``edgeprune.prune`` on this device without fine-tuning, by the objective that ``method`` stands for."""
        session = self.session
        session.backend.release()
        options = Options(objective=OURS[method], epochs=0.0, threads=THREADS, formats=("tflite",), reuse=False)
        limit = edgeprune.Budget(latency=f"{100 * budget:g}%")
        task, runs = session.seeded_task(0), session.cache / "runs"
        return edgeprune.prune(task, session.target, budget=limit, options=options, runs=runs, listener=session.notes)

    def figures(self, result: edgeprune.Result) -> Row:
        """What a run of edgeprune found, as a search's row has it."""
        found, ratio = result.figures, result.figures.ratio
        assert ratio is not None, "the device measured it"
        tried = [
            {
                "x": None,
                "ratio": one.ratio,
                "predicted_ms": one.predicted_ms,
                "measured_ms": one.measured_ms,
                "calibrated_on": 1 + number,
            }
            for number, one in enumerate(found.candidates)
        ]
        return {
            "error": None if result.met else "its run ended above the budget",
            "ratio": ratio.value,
            "low": ratio.low,
            "high": ratio.high,
            "latency_ms": found.pruned.latency_ms,
            "macs": macs_of(result.model, self.session.task.example_inputs),
            "parameters": parameters_of(result.model),
            "measurements": found.device_measurements,
            "tried": tried,
            "objectives": [asdict(one) for one in found.objectives],
        }


def _digest(plan: Plan) -> str:
    return "plan-" + hashlib.sha256(json.dumps(json.loads(plan.to_json())["kept"], sort_keys=True).encode()).hexdigest()[:12]


def _reason(error: Exception) -> str:
    """One line."""
    if isinstance(error, EdgepruneError):
        return error.message
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"
