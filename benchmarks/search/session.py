"""One model in the search benchmark: its task, its device, and what is done alike to every method's result."""

from __future__ import annotations

import copy
import hashlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from platformdirs import user_cache_path
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.search.cases import HERE, Case, Row
from edgeprune.batches import Batch
from edgeprune.budget import Budget
from edgeprune.cost.table import grid_of, point_key
from edgeprune.export import export
from edgeprune.runs.directory import RunDirectory
from edgeprune.search import Options
from edgeprune.search.baselines import SearchContext
from edgeprune.search.events import stream_to
from edgeprune.search.job import Job
from edgeprune.search.measure.paired import PairedMeasurement
from edgeprune.search.request import RunRequest
from edgeprune.search.summary import versions
from edgeprune.task import Batches, Task, load_recipe
from edgeprune.tuning import finetune, recalibrate
from edgeprune.tuning.layout import laid_out

THREADS = 1
ORDERS = 1000
"""Epochs that are set apart for every seed: where the training data has ``set_epoch``, each seed sees another order of it."""


@dataclass
class Notes:
    """What a run says, on stderr."""

    prefix: str

    def progress(self, stage: str, done: int, total: int) -> None:
        """Too much to show."""

    def note(self, text: str) -> None:
        """One line."""
        print(f"{time.strftime('%H:%M:%S')} {self.prefix}: {text}", file=sys.stderr, flush=True)


@dataclass
class Shuffled:
    """Training batches in another order for every seed; the first ones, that batch norm is recalibrated on, are the same."""

    batches: Batches
    seed: int

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration."""
        tell = getattr(self.batches, "set_epoch", None)
        if callable(tell):
            tell(epoch + ORDERS * self.seed)

    def __len__(self) -> int:
        return len(self.batches)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return iter(self.batches)


class Remembered(nn.Module):
    """A teacher that answers every batch once: all methods are taught on the same ones."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.answers: dict[bytes, Tensor] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Remembered:
        return self  # what it remembers is shared

    def forward(self, inputs: Tensor) -> Tensor:
        key = hashlib.blake2b(inputs.contiguous().numpy().tobytes(), digest_size=16).digest()
        if key not in self.answers:
            self.answers[key] = self.model(inputs)
        return self.answers[key]


class Session:
    """A case on a device.  ``cache``: where what can be had again is kept between calls: measurements, exported files, found models."""

    def __init__(self, case: Case, target: str, cache: Path | None = None) -> None:
        self.case, self.target, self.notes = case, target, Notes(case.name)
        self.cache = cache or user_cache_path("edgeprune") / "benchmarks" / "search" / case.name
        self.task: Task = load_recipe(case.recipe)
        self.run = RunDirectory(self.cache / "session")
        options = Options(threads=THREADS, epochs=0.0)
        job = Job(RunRequest(self.task, Budget(latency="50%"), target, options=options), self.run, stream_to(self.notes))
        started = time.perf_counter()
        job.prepare()
        self.prepare_s = time.perf_counter() - started
        self.backend, self.dense = job.backend, job.dense
        self.teacher = Remembered(self.task.model)
        self.context = SearchContext(self.task, job.analysis, job.planner)
        self.observed: list[tuple[dict[str, int], float, float | None]] = [(job.planner.dense, job.dense.latency_ms, job.dense.peak_bytes)]

    @property
    def dense_file(self) -> Path:
        """The dense model as it is measured."""
        return self.run.artifacts / "dense.tflite"

    def observe(self, widths: dict[str, int], latency_ms: float) -> None:
        """Correct the planner by a measured plan."""
        if all(widths != known for known, _, _ in self.observed):
            self.observed.append((widths, latency_ms, None))
            self.context.planner.observe(self.observed)

    def measure(self, model: nn.Module, key: str) -> PairedMeasurement:
        """Export and time a model in turns with the dense one; what has been measured under ``key`` is recalled."""
        if self.run.recall(key) is None:
            path = export(model, self.task.example_inputs, ("tflite",), self.run.artifacts, key)["tflite"]
        else:
            path = Path()
        pair = self.backend.measure_pair(key, self.dense_file, path)
        assert pair is not None
        return pair

    @cached_property
    def _validation(self) -> tuple[list[Batch], list[Tensor]]:
        assert self.task.validation is not None
        batches = list(self.task.batches("validation"))
        return batches, self._answers(self.task.model, batches)

    def _answers(self, model: nn.Module, batches: list[Batch]) -> list[Tensor]:
        model.eval()
        with torch.inference_mode():
            return [laid_out(model, batch).call(model) for batch in batches]

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """On the validation data: the task's metric, its mean loss, and the mean Kullback-Leibler divergence from the dense model."""
        batches, wanted = self._validation
        sums, count = {"accuracy": 0.0, "loss": 0.0, "divergence": 0.0}, 0
        for batch, dense, outputs in zip(batches, wanted, self._answers(model, batches), strict=True):
            size = batch.size
            ours, theirs = functional.log_softmax(outputs, 1), functional.log_softmax(dense, 1)
            sums["accuracy"] += size * float(self.task.metric(outputs, batch.targets))
            sums["loss"] += size * float(self.task.loss_of(outputs, batch.targets, "in an evaluation"))
            sums["divergence"] += size * float(functional.kl_div(ours, theirs, reduction="batchmean", log_target=True))
            count += size
        return {name: value / count for name, value in sums.items()}

    def seeded_task(self, seed: int) -> Task:
        """The task with its training data in the seed's order, without scoring after every epoch."""
        assert self.task.train is not None
        return replace(self.task, train=Shuffled(self.task.train, seed), validation=None, evaluate=None)

    def epochs(self, steps: int) -> float:
        """That many steps, as a part of an epoch."""
        return (steps - 0.5) / len(self.task.train)  # type: ignore[arg-type]

    def restart_data(self) -> None:
        """Have the training data begin as it did at first, whatever was trained since."""
        assert self.task.train is not None
        Shuffled(self.task.train, 0).set_epoch(0)

    def recalibrate(self, model: nn.Module) -> None:
        """Batch-norm statistics as after fine-tuning."""
        assert self.task.train is not None
        recalibrate(model, self.task.train)

    def tune(self, model: nn.Module, seed: int, steps: int) -> int:
        """Fine-tune in place as every method's model is; returns the steps."""
        return finetune(model, self.seeded_task(seed), teacher=self.teacher, epochs=self.epochs(steps), seed=seed).steps

    @cached_property
    def dense_scores(self) -> dict[str, float]:
        """Of the dense model."""
        return self.evaluate(self.task.model)

    @property
    def kernels(self) -> int:
        """How many entries of the device table the model's widths need."""
        planner = self.context.planner
        return len({point_key(point) for kernel in planner.kernels for point in grid_of(kernel, planner.choices).points()})

    def provenance(self) -> Row:
        """What a row comes from."""
        facts = self.backend.facts
        runtime, version = facts["runtimes"][facts["engine"]]
        return {
            "model": self.case.name,
            "dense_ms": self.dense.latency_ms,
            "device": f"{facts['board'] or facts['cpu']} ({facts['arch']}), {runtime} {version}, {THREADS} thread",
            "versions": versions(),
            "code": code_version(),
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        }

    def close(self) -> None:
        """Free the device and the cache."""
        self.backend.release()
        self.run.close()


@cache
def code_version() -> str:
    """A hash of the code that a row depends on."""
    digest = hashlib.sha256()
    folders = (HERE.parent / "edgeprune" / name for name in ("graph", "importance", "cost", "surgery", "tuning", "search"))
    for path in sorted(path for folder in folders for path in folder.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def macs_of(model: nn.Module, inputs: tuple[Any, ...]) -> int:
    """Multiply-accumulates of one inference, counted alike for every model."""
    counter = FlopCounterMode(display=False)
    model.eval()
    with torch.no_grad(), counter:
        model(*inputs)
    return int(counter.get_total_flops() // 2)


def parameters_of(model: nn.Module) -> int:
    """All of a model's parameters."""
    return sum(value.numel() for value in model.parameters())


def shape_key(model: nn.Module) -> str:
    """Identifies a structure: models of equal shapes are equally fast."""
    text = ";".join(f"{name}{tuple(value.shape)}" for name, value in model.state_dict().items())
    return hashlib.sha256(text.encode()).hexdigest()[:12]
