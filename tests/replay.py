"""Runs whose device is a recording: what it answered once, it answers again, so that two versions of the search can be compared to the bit.

``python tests/replay.py NAME ...`` records a run into ``tests/search/replays/NAME.json``: what the recording there answers already is not
measured again.  A change that is meant to change plans or weights needs it, and its message says so.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from itertools import accumulate, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from points_task import points_task
from safetensors import safe_open

import edgeprune
from edgeprune.bench import Artifact, BenchOptions, Comparison, Device, DeviceInfo, KernelTime, Measurement, Ratio, open_device
from edgeprune.bench.intervals import latencies_ms
from edgeprune.decode import convert
from edgeprune.export import formats
from edgeprune.files import write_atomically
from edgeprune.task import load_recipe

ROOT = Path(__file__).parents[1]
FOLDER = Path(__file__).parent / "search" / "replays"
OPENED = "edgeprune.search.measure.board.open_device"
PER_WINDOW = 4
"""Raw samples that are kept of each window."""
QUICK = {"rounds": 8, "warmup_s": 0.3, "min_time_s": 0.5, "max_time_s": 3.0}
"""How a device is measured for a recording: what it says has to be whole, not precise."""


@dataclass(frozen=True)
class Case:
    """A run to record: its task, budget and options."""

    task: Callable[[], edgeprune.Task]
    budget: edgeprune.Budget
    options: edgeprune.Options


def _points() -> edgeprune.Task:
    return replace(points_task(width=96), epochs=2)


def _digits() -> edgeprune.Task:
    return load_recipe(ROOT / "recipes" / "digits.py")


def _resnet20() -> edgeprune.Task:
    task = load_recipe(ROOT / "recipes" / "cifar10_resnet20.py")
    few = [(inputs[:32], targets[:32]) for inputs, targets in islice(iter(task.train), 8)]
    return replace(task, train=few, validation=few[:2], epochs=1)


CASES = {
    "points": Case(
        _points,
        edgeprune.Budget(parameters="60%", size="75%"),
        edgeprune.Options(objective="sensitivity", engine="torchscript", formats=("torchscript",), threads=1, measurements=3, reuse=False),
    ),
    "digits": Case(
        _digits,
        edgeprune.Budget(latency="50%"),
        edgeprune.Options(objective="sensitivity", epochs=1, threads=1, formats=("tflite",), reuse=False),
    ),
    "resnet20": Case(
        _resnet20, edgeprune.Budget(latency="35%"), edgeprune.Options(objective="sensitivity", threads=1, formats=("tflite",), reuse=False)
    ),
}


def _thinned(item: Measurement) -> Measurement:
    """The measurement of fewer samples in each window, with the figures that those make."""
    samples, ends = list[int](), list(accumulate(item.windows))
    windows = [min(count, PER_WINDOW) for count in item.windows]
    for end, count, kept in zip(ends, item.windows, windows, strict=True):
        samples += item.samples_ns[end - count :][:kept]
    figures: dict[str, Any] = latencies_ms(samples, windows)
    return replace(item, samples_ns=tuple(samples), windows=tuple(windows), **figures)


class Recording:
    """A device that answers what a recorded one answered; only outputs are computed, on this machine.

    ``target``: a device that is asked what the recorded one was not, and noted in ``answers``; None: nothing else may be asked.
    """

    def __init__(self, answers: dict[str, Any], target: str | None = None) -> None:
        self._answers, self._target = answers, target
        self.played = {"measure": 0, "compare": 0}
        self.device: Device | None = None
        if "info" not in answers:
            answers["info"] = asdict(self._live().info) | {"hostname": "recorded", "python_path": "/usr/bin/python3"}
        self.info = convert(json.loads(json.dumps(answers["info"])), DeviceInfo)

    def measure(self, artifacts: Sequence[Artifact], options: BenchOptions) -> list[Measurement]:
        return _of(self._next("measure", lambda: _plain(self._live().measure(artifacts, replace(options, **QUICK)))), artifacts)

    def compare(self, baseline: Artifact, candidates: Sequence[Artifact], options: BenchOptions) -> Comparison:
        def ask() -> dict[str, Any]:
            found = self._live().compare(baseline, candidates, replace(options, **QUICK))
            return {"measurements": _plain(found.measurements), "ratios": [asdict(one) for one in found.ratios]}

        known = json.loads(json.dumps(self._next("compare", ask)))
        return Comparison(tuple(_of(known["measurements"], (baseline, *candidates))), convert(known["ratios"], tuple[Ratio, ...]))

    def table(self, files: dict[str, bytes], engine: str, options: BenchOptions) -> dict[str, KernelTime]:
        known = self._answers.setdefault("table", {})
        if missing := {name: content for name, content in files.items() if name not in known}:
            known |= {name: asdict(time) for name, time in self._live().table(missing, engine, options).items()}
        return {name: KernelTime(**known[name]) for name in files}

    def outputs(self, artifact: Artifact, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        outputs = formats.find(artifact.engine).run(artifact.path, tuple(torch.from_numpy(value) for value in inputs))
        return [value.detach().numpy() for value in outputs]

    def close(self) -> None:
        """Let go of the device that was asked."""
        device, self.device = self.device, None
        if device is not None:
            device.close()

    def forget_the_rest(self) -> None:
        """Keep only the answers that were used."""
        for call, number in self.played.items():
            del self._answers.get(call, [])[number:]

    def _live(self) -> Device:
        assert self._target is not None, "the recorded device was not asked this"
        self.device = self.device or open_device(self._target)
        return self.device

    def _next(self, call: str, ask: Callable[[], Any]) -> Any:
        known, number = self._answers.setdefault(call, []), self.played[call]
        if number == len(known):
            known.append(ask())
        self.played[call] += 1
        return known[number]


def _plain(found: Sequence[Measurement]) -> list[dict[str, Any]]:
    return [_thinned(one).to_json() for one in found]


def _of(kept: list[dict[str, Any]], artifacts: Sequence[Artifact]) -> list[Measurement]:
    """The recorded measurements, of the files as they are now: their metadata may have changed."""
    pairs = zip(kept, artifacts, strict=True)
    return [Measurement.from_json(one | {"file_sha256": sha256(item.path.read_bytes()).hexdigest()}) for one, item in pairs]


def outcome(case: Case, folder: Path, cache: Path) -> dict[str, Any]:
    """What a run of ``case`` comes to: all plans it built, the one it kept, and hashes of the weights."""
    with patch.dict(os.environ, XDG_CACHE_HOME=str(cache)):
        result = edgeprune.prune(case.task(), "local:", budget=case.budget, options=case.options, runs=folder)
    with safe_open(result.checkpoint, framework="numpy") as file:
        tensors = {name: sha256(file.get_tensor(name).tobytes()).hexdigest()[:16] for name in sorted(file.keys())}
    plans = {path.stem: json.loads(path.read_text()) for path in sorted((result.run / "plans").glob("*.json"))}
    return {
        "plans": {name: sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()[:16] for name, plan in plans.items()},
        "plan": json.loads(result.plan.to_json()),
        "tensors": tensors,
    }


def machine() -> dict[str, str]:
    """What the bits of a training depend on beside its code."""
    return {"torch": torch.__version__, "machine": platform.machine(), "capability": torch.backends.cpu.get_cpu_capability()}


def record(name: str) -> None:
    """Run case ``name`` and keep what it comes to, with the device's answers: those that an earlier recording holds, and what it lacks
    from this machine."""
    torch.set_num_threads(1)
    path = FOLDER / f"{name}.json"
    answers: dict[str, Any] = json.loads(path.read_text())["answers"] if path.exists() else {}
    device = Recording(answers, "local:")
    with TemporaryDirectory() as folder, patch(OPENED, lambda target, **options: device):
        found = outcome(CASES[name], Path(folder), Path(folder, "cache"))
    device.forget_the_rest()
    write_atomically(path, json.dumps({"machine": machine(), "answers": answers, "outcome": found}, indent=0) + "\n")


@contextmanager
def played(name: str) -> Iterator[dict[str, Any]]:
    """The recording of case ``name``; inside, every device that is opened answers it."""
    recorded = json.loads((FOLDER / f"{name}.json").read_text())
    device = Recording(recorded["answers"])
    with patch(OPENED, lambda target, **options: device):
        yield recorded


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        record(argument)
