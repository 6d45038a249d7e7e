"""A microcontroller's side of a run: int8 files whose arena is measured by TFLite Micro's interpreter on this machine.

What a :class:`~edgeprune.search.measure.device.DeviceBackend` measures on a device is known here without one: the arena and the file are
exact.
Only latency, and energy with it, is predicted from the profile.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edgeprune.bench import Measurement
from edgeprune.bench.info import DeviceFacts
from edgeprune.budget import Budget
from edgeprune.cost.kernels import Kernel, macs
from edgeprune.cost.latency import KernelTimes
from edgeprune.cost.prior import PriorTimes
from edgeprune.engines import INT8
from edgeprune.errors import BudgetError, InfeasibleBudgetError, InputError, ParityError
from edgeprune.graph import Analysis
from edgeprune.micro import (
    Arena,
    estimate_flash,
    macs_of,
    measure_arena,
    predict_ms,
    read_graph,
    run_micro,
    tflite_micro_version,
    write_c_array,
)
from edgeprune.profile import MICRO, Profile
from edgeprune.runs.arena import arena_measurement
from edgeprune.runs.directory import RunDirectory
from edgeprune.runs.summary import ModelSummary, RunSummary
from edgeprune.search.measure.archive import Archive
from edgeprune.search.measure.backend import Asked, Choices, described
from edgeprune.search.measure.paired import PairedMeasurement
from edgeprune.search.plan.loop import Loop
from edgeprune.search.precision import MICRO as MICRO_PRECISION
from edgeprune.search.precision import Precision
from edgeprune.tflite.interpreter import invoke, open_tflite

ENGINE = INT8

STEPS = 16
"""How many of 256 steps an output may differ between the kernels of TFLite Micro and of TFLite, which round otherwise: MLPerf Tiny's models
differ by up to 8."""


@dataclass
class UnknownTimes:
    """A nanosecond for every MAC: stands in for latency, and is never shown, where a profile knows none."""

    measured: bool = False
    call_ms: float = 0.0

    def milliseconds(self, kernel: Kernel, in_width: float, out_width: float) -> float:
        """In proportion to the work."""
        return 1e-6 * macs(kernel.spec, in_width, out_width)


@dataclass(frozen=True)
class _Known:
    """What is recorded of a file.  ``bytes``, ``sha256``: of the file itself."""

    arena: Arena
    bytes: int
    sha256: str
    predicted_ms: float


class MicroBackend:
    """Takes the place of a device's backend for the profile of a microcontroller.

    A model's ``peak_bytes`` is the smallest arena it runs in, ``file_bytes`` that of its int8 file. Raises :class:`ExportError` without
    tflite-micro.
    """

    at_once, is_remote, precision = 1, False, MICRO_PRECISION

    def __init__(self, run: RunDirectory, profile: Profile) -> None:
        self._run, self._profile = run, profile
        self._version = tflite_micro_version()
        self.target = profile.name
        self.measurements = 0

    @property
    def latency_known(self) -> bool:
        """Whether the profile predicts latencies."""
        return self._profile.prior is not None

    @property
    def facts(self) -> DeviceFacts:
        """As a device's."""
        cpu = self._profile.cpu
        return {
            "engine": ENGINE,
            "threads": 1,
            "profile": self._profile.name,
            "board": self._profile.title,
            "cpu": cpu.core,
            "arch": cpu.architecture,
            "cores": cpu.cores,
            "os": "none",
            "runtimes": {ENGINE: (MICRO, self._version)},
        }

    def kernel_times(self, kernels: Sequence[Kernel], choices: Choices) -> KernelTimes:
        """By the profile's prior."""
        return PriorTimes(self._profile) if self.latency_known else UnknownTimes()

    def measure_dense(self, path: Path) -> Measurement:
        """The dense model's."""
        return self._measured("dense", path)

    def measure_pair(self, key: str, dense: Path, path: Path, stop_at: float | None = None) -> PairedMeasurement:
        """A pruned model's figures beside the dense one's; latencies are predicted, and their ratio with them."""
        before, after = self._measured("dense", dense), self._measured(key, path)
        ratio = after.latency_ms / before.latency_ms
        return PairedMeasurement(ratio, ratio, ratio, before, after)

    def measure_pairs(self, dense: Path, asked: Iterable[Asked]) -> list[PairedMeasurement]:
        """One after another."""
        return [self.measure_pair(one.key, dense, one.path) for one in asked]

    def choose(self, loop: Loop) -> dict[str, int]:
        """Those of the best plan that was measured to meet the budget."""
        return loop.run().widths

    def confirm(self, impossible: InfeasibleBudgetError, measure_narrowest: Callable[[], None]) -> None:
        """A measurement has the last word."""
        measure_narrowest()

    def check_outputs(self, path: Path, inputs: Sequence[Tensor], expected: Callable[[], Sequence[Tensor]], tolerance: float) -> None:
        """TFLite Micro computes what TFLite does here, on seeded inputs; what is not a quantized number (an index) is as in ``inputs``.

        Raises :class:`ParityError`.
        """
        content = path.read_bytes()
        random = np.random.default_rng(0)
        probe = [
            (random.integers(-128, 128, tensor.shape) if tensor.scales else example.numpy().reshape(tensor.shape)).astype(tensor.dtype)
            for tensor, example in zip(read_graph(content, path.name).inputs, inputs, strict=True)
        ]
        interpreter = open_tflite(content)
        invoke(interpreter, [torch.from_numpy(value) for value in probe])
        for index, (detail, found) in enumerate(zip(interpreter.get_output_details(), run_micro(content, probe, path.name), strict=True)):
            steps = np.abs(interpreter.get_tensor(detail["index"]).astype(int) - found.astype(int)).max()
            if steps > STEPS:
                raise ParityError(f"output {index} of {path.name} differs by {steps} of 256 steps between TFLite Micro and TFLite")

    def archive(self, analysis: Analysis, precision: Precision) -> Archive | None:
        """Nothing is kept: an arena is measured in a moment."""
        return None

    def shipped_with(self, path: Path) -> dict[str, Path]:
        """The file as a C array with its header, beside it; the path of the source."""
        content = path.read_bytes()
        return {"c-array": write_c_array(content, path.parent / "c", "model", measure_arena(content, path.name))[0]}

    def description(self) -> dict[str, str | int | None]:
        """The microcontroller by its profile."""
        return described(self.target, self.facts)

    def label(self, summary: RunSummary, path: Path) -> RunSummary:
        """The summary with what was measured and what predicted, and without what is not known.  ``path``: the int8 file."""
        content = path.read_bytes()
        flash = estimate_flash(read_graph(content, path.name), len(content))
        prior = self._profile.prior
        source = f"predicted from {prior.runtime}" if prior else "not known"
        facts = {"latency": source, "memory": f"arena measured with tflite-micro {self._version}"}
        facts["flash"] = f"{flash.total_bytes} bytes, {flash.code_bytes} of them code, estimated from {flash.method}"
        return replace(
            summary,
            dense=self._known(summary.dense),
            pruned=self._known(summary.pruned),
            measured=False,
            measured_kinds=["memory", "size", "macs", "parameters", "max_drop"],
            methods={"latency": source, "memory": "arena measured with tflite-micro", "size": "the int8 file"},
            device={**summary.device, **facts},
            ratio=None,
            candidates=[],
        )

    def _known(self, model: ModelSummary) -> ModelSummary:
        """The figures that the profile knows."""
        model = replace(model, low_ms=None, high_ms=None, latency_ms=model.latency_ms if self.latency_known else None)
        if self.latency_known and model.energy_mj is not None and math.isfinite(model.energy_mj):
            return model
        return replace(model, energy_mj=None, energy_method="not known")

    def release(self) -> None:
        """Nothing is held."""

    def _measured(self, key: str, path: Path) -> Measurement:
        known = self._run.recall_as(key, _Known)
        if known is None:
            content = path.read_bytes()
            graph = read_graph(content, path.name)
            latency = predict_ms(graph, self._profile) if self.latency_known else 1e-6 * macs_of(graph)
            arena = measure_arena(content, path.name)
            known = _Known(arena, len(content), sha256(content).hexdigest(), latency)
            self.measurements += 1
            self._run.record(key, asdict(known))
        return arena_measurement(
            known.arena,
            name=path.name,
            file_bytes=known.bytes,
            file_sha256=known.sha256,
            device=self._profile.name,
            latency_ms=known.predicted_ms,
        )


def check_micro(profile: Profile, engine: str | None, budget: Budget) -> None:
    """Refuse another engine (:class:`InputError`), a budget that the profile knows nothing to judge by (:class:`BudgetError`), and the lack
    of tflite-micro (:class:`ExportError`)."""
    if engine not in (None, ENGINE):
        raise InputError(f"{profile.name} runs {ENGINE}, not {engine}", remedy="Leave the engine out.")
    for kind, known in (("latency", profile.prior), ("energy", profile.prior and profile.power)):
        if kind in budget.limits() and known is None:
            raise BudgetError(
                f"the profile {profile.name} has no published {kind}: a budget for it cannot be judged", remedy=f"Leave {kind} out."
            )
    tflite_micro_version()
