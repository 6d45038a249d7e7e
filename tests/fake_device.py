"""A device for backends: no process, no connection, times that can be predicted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from measured import MEASURED, device_info

from edgeprune.bench import Artifact, BenchOptions, Comparison, KernelTime, Measurement, Ratio
from edgeprune.bench.intervals import latencies_ms
from edgeprune.tflite.interpreter import invoke, open_tflite

SPREAD = {"latency_ms": 1.0, "low_ms": 0.99, "high_ms": 1.01, "p90_ms": 1.1, "p99_ms": 1.2}


def sampled(found: Measurement) -> Measurement:
    """With raw samples of a round."""
    windows = (3,) * 10
    samples = tuple(round(1e6 * found.latency_ms * (1 + 0.004 * (number % 3 - 1))) for number in range(sum(windows)))
    return replace(found, **latencies_ms(samples, windows), samples_ns=samples, windows=windows)


class FakeDevice:
    """Times are in proportion to the files' sizes; outputs are those of this machine."""

    def __init__(self, target: str, **options: Any) -> None:
        self.info = replace(device_info(), machine=target, runtimes={"tflite": ("ai-edge-litert", "2.3.0")})

    def _measured(self, artifact: Artifact) -> Measurement:
        content = artifact.path.read_bytes()
        size = len(content)
        ms = {name: factor * size / 1e3 for name, factor in SPREAD.items()}
        return replace(MEASURED, **ms, file_bytes=size, file_sha256=sha256(content).hexdigest())

    def measure(self, artifacts: Sequence[Artifact], options: BenchOptions) -> list[Measurement]:
        return [self._measured(artifact) for artifact in artifacts]

    def compare(self, baseline: Artifact, candidates: Sequence[Artifact], options: BenchOptions) -> Comparison:
        first, second = self._measured(baseline), self._measured(candidates[0])
        ratio = second.latency_ms / first.latency_ms
        if options.only_round is not None:
            return Comparison((sampled(first), sampled(second)), (Ratio.of_rounds("pruned", [math.log(ratio)]),))
        return Comparison((first, second), (Ratio("pruned", ratio, 0.99 * ratio, 1.01 * ratio, "faster"),))

    def table(self, files: dict[str, bytes], engine: str, options: BenchOptions) -> dict[str, KernelTime]:
        return {name: KernelTime(1e3 * len(content), 1e3, 0.0) for name, content in files.items()}

    def outputs(self, artifact: Artifact, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        interpreter = open_tflite(artifact.path.read_bytes())
        invoke(interpreter, [torch.from_numpy(value) for value in inputs])
        return [interpreter.get_tensor(item["index"]) for item in interpreter.get_output_details()]

    def close(self) -> None:
        pass
