"""Runs without a device: a profile's prior predicts, and nothing is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from torch import Tensor

from edgeprune.bench import Measurement
from edgeprune.bench.info import DeviceFacts
from edgeprune.cost.kernels import Kernel
from edgeprune.cost.latency import KernelTimes
from edgeprune.cost.prior import PriorTimes
from edgeprune.engines import TFLITE
from edgeprune.errors import InfeasibleBudgetError
from edgeprune.graph import Analysis
from edgeprune.profile import Profile
from edgeprune.runs.summary import RunSummary
from edgeprune.search.measure.archive import Archive
from edgeprune.search.measure.backend import Asked, Choices
from edgeprune.search.measure.paired import PairedMeasurement
from edgeprune.search.plan.loop import Loop
from edgeprune.search.precision import Precision, float_precision


class PredictedBackend:
    """Everything about ``profile`` is known from published figures.  ``engine``: the format of the files; None is TFLite."""

    at_once, is_remote, measurements = 1, False, 0

    def __init__(self, profile: Profile, engine: str | None) -> None:
        self._profile = profile
        self.target = profile.name
        self.precision: Precision = float_precision(engine or TFLITE)

    @property
    def facts(self) -> DeviceFacts:
        """The engine and the profile."""
        return {"engine": self.precision.format, "threads": None, "profile": self._profile.name}

    def kernel_times(self, kernels: Sequence[Kernel], choices: Choices) -> KernelTimes:
        """By the profile's prior."""
        return PriorTimes(self._profile)

    def measure_dense(self, path: Path) -> Measurement | None:
        """Nothing."""
        return None

    def measure_pair(self, key: str, dense: Path, path: Path, stop_at: float | None = None) -> PairedMeasurement | None:
        """Nothing."""
        return None

    def measure_pairs(self, dense: Path, asked: Iterable[Asked]) -> list[None]:
        """Nothing."""
        return [None for _ in asked]

    def choose(self, loop: Loop) -> dict[str, int]:
        """Those that are predicted to meet the budget."""
        return loop.solve()

    def confirm(self, impossible: InfeasibleBudgetError, measure_narrowest: Callable[[], None]) -> None:
        """The prediction is the last word."""
        raise impossible

    def check_outputs(self, path: Path, inputs: Sequence[Tensor], expected: Callable[[], Sequence[Tensor]], tolerance: float) -> None:
        """Nothing: the export compared the file with the model on this machine."""

    def archive(self, analysis: Analysis, precision: Precision) -> Archive | None:
        """Nothing is kept."""
        return None

    def shipped_with(self, path: Path) -> dict[str, Path]:
        """No other file."""
        return {}

    def description(self) -> dict[str, str | int | None]:
        """What latencies are."""
        return {"latency": "predicted from the profile's prior, not measured"}

    def label(self, summary: RunSummary, path: Path) -> RunSummary:
        """The summary as it is."""
        return summary

    def release(self) -> None:
        """Nothing is held."""
