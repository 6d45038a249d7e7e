"""Runs whose device is a recording: what it answered once, it answers again, so that two versions of the search can be compared to the bit.

``python tests/replay.py NAME ...`` records a run on this machine into ``tests/search/replays/NAME.json``.
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
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from points_task import points_task
from safetensors import safe_open

import edgeprune
from edgeprune.bench import Artifact, BenchOptions, Comparison, DeviceInfo, KernelTime, Measurement, Ratio, open_device
from edgeprune.task import load_recipe

ROOT = Path(__file__).parents[1]
FOLDER = Path(__file__).parent / "search" / "replays"
OPENED = "edgeprune.search.measure.device.open_device"
SAMPLES = 16
"""Raw samples of a measurement that are kept."""


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


def _plain(measurement: Measurement) -> dict[str, Any]:
    return measurement.to_json() | {"samples_ns": list(measurement.samples_ns[:SAMPLES])}


class Recorder:
    """A device that notes what it answers in ``answers``."""

    def __init__(self, answers: dict[str, Any], target: str, **options: Any) -> None:
        self._device, self._answers = open_device(target, **options), answers
        self.info = self._device.info
        answers.setdefault("info", asdict(self.info))

    def measure(self, artifacts: Sequence[Artifact], options: BenchOptions) -> list[Measurement]:
        kept = [_plain(one) for one in self._device.measure(artifacts, options)]
        self._answers.setdefault("measure", []).append(kept)
        return [Measurement.from_json(one) for one in kept]

    def compare(self, baseline: Artifact, candidates: Sequence[Artifact], options: BenchOptions) -> Comparison:
        found = self._device.compare(baseline, candidates, options)
        kept = {"measurements": [_plain(one) for one in found.measurements], "ratios": [asdict(one) for one in found.ratios]}
        self._answers.setdefault("compare", []).append(kept)
        return _comparison(kept)

    def table(self, files: dict[str, bytes], engine: str, options: BenchOptions) -> dict[str, KernelTime]:
        found = self._device.table(files, engine, options)
        self._answers.setdefault("table", {}).update({name: asdict(time) for name, time in found.items()})
        return found

    def outputs(self, artifact: Artifact, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        return self._device.outputs(artifact, inputs)

    def close(self) -> None:
        self._device.close()


class Player:
    """A device that answers what a recorded one answered; only outputs are computed, on this machine."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self._answers = answers
        info = dict(answers["info"])
        info |= {name: tuple(info[name]) for name in ("features", "meters")}
        info["runtimes"] = {name: tuple(value) for name, value in info["runtimes"].items()}
        self.info = DeviceInfo(**info)
        self.played = {"measure": 0, "compare": 0}

    def _next(self, call: str) -> Any:
        number = self.played[call]
        assert number < len(self._answers[call]), f"the recorded run called {call} {number} times only"
        self.played[call] += 1
        return self._answers[call][number]

    def measure(self, artifacts: Sequence[Artifact], options: BenchOptions) -> list[Measurement]:
        return [Measurement.from_json(_of(one, item)) for one, item in zip(self._next("measure"), artifacts, strict=True)]

    def compare(self, baseline: Artifact, candidates: Sequence[Artifact], options: BenchOptions) -> Comparison:
        answer = self._next("compare")
        measured = [_of(one, item) for one, item in zip(answer["measurements"], (baseline, *candidates), strict=True)]
        return _comparison({"measurements": measured, "ratios": answer["ratios"]})

    def table(self, files: dict[str, bytes], engine: str, options: BenchOptions) -> dict[str, KernelTime]:
        return {name: KernelTime(**self._answers["table"][name]) for name in files}

    def outputs(self, artifact: Artifact, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        from edgeprune.export import formats

        outputs = formats.find(artifact.engine).run(artifact.path, tuple(torch.from_numpy(value) for value in inputs))
        return [value.detach().numpy() for value in outputs]

    def close(self) -> None:
        """Nothing is held."""


def _of(kept: dict[str, Any], artifact: Artifact) -> dict[str, Any]:
    """The recorded measurement, of the file as it is now: its metadata may have changed."""
    content = artifact.path.read_bytes()
    return kept | {"file_sha256": sha256(content).hexdigest(), "file_bytes": kept["file_bytes"]}


def _comparison(kept: dict[str, Any]) -> Comparison:
    return Comparison(tuple(map(Measurement.from_json, kept["measurements"])), tuple(Ratio(**one) for one in kept["ratios"]))


def outcome(case: Case, folder: Path, cache: Path) -> dict[str, Any]:
    """What a run of ``case`` comes to: all plans it built, the one it kept, and hashes of the weights and of the files."""
    with patch.dict(os.environ, XDG_CACHE_HOME=str(cache)):
        result = edgeprune.prune(case.task(), "local:", budget=case.budget, options=case.options, runs=folder)
    with safe_open(result.checkpoint, framework="numpy") as file:
        tensors = {name: sha256(file.get_tensor(name).tobytes()).hexdigest()[:16] for name in sorted(file.keys())}
    plans = {path.stem: json.loads(path.read_text()) for path in sorted((result.run / "plans").glob("*.json"))}
    return {
        "plans": {name: sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()[:16] for name, plan in plans.items()},
        "plan": json.loads(result.plan.to_json()),
        "tensors": tensors,
        "files": {name: sha256(path.read_bytes()).hexdigest() for name, path in sorted(result.artifacts.items())},
    }


def machine() -> dict[str, str]:
    """What the bits of a training depend on beside its code."""
    return {"torch": torch.__version__, "machine": platform.machine(), "capability": torch.backends.cpu.get_cpu_capability()}


def record(name: str) -> None:
    """Run case ``name`` on this machine and keep what the device answered and what it came to."""
    torch.set_num_threads(1)
    answers: dict[str, Any] = {}
    with TemporaryDirectory() as folder, patch(OPENED, lambda target, **options: Recorder(answers, target, **options)):
        found = outcome(CASES[name], Path(folder), Path(folder, "cache"))
    FOLDER.mkdir(exist_ok=True)
    answers["info"] |= {"hostname": "recorded", "python_path": "/usr/bin/python3"}
    (FOLDER / f"{name}.json").write_text(json.dumps({"machine": machine(), "answers": answers, "outcome": found}, indent=0) + "\n")


@contextmanager
def played(name: str) -> Iterator[dict[str, Any]]:
    """The recording of case ``name``; inside, every device that is opened answers it."""
    recorded = json.loads((FOLDER / f"{name}.json").read_text())
    player = Player(recorded["answers"])
    with patch(OPENED, lambda target, **options: player):
        yield recorded


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        record(argument)
