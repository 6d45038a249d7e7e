"""What every place that models are measured at has in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from edgeprune.bench import Measurement
from edgeprune.bench.info import DeviceFacts
from edgeprune.cost.kernels import Kernel
from edgeprune.cost.latency import KernelTimes
from edgeprune.errors import InfeasibleBudgetError
from edgeprune.graph import Analysis
from edgeprune.runs.summary import RunSummary
from edgeprune.search.measure.archive import Archive
from edgeprune.search.measure.paired import PairedMeasurement
from edgeprune.search.plan.loop import Loop
from edgeprune.search.precision import Precision

Choices = Mapping[str, list[int]]
"""By group the widths it may take, ascending."""


@dataclass(frozen=True)
class Asked:
    """A candidate to measure in turns with the dense model: its record's ``key``, its file (there is one unless it is recorded), and
    ``stop_at`` of :meth:`MeasurementBackend.measure_pair`."""

    key: str
    path: Path
    stop_at: float | None = None


class MeasurementBackend(Protocol):
    """Where the models of one run are measured: a device, several of one kind, an interpreter on this machine, or nowhere (everything is
    predicted).

    Every measurement is made once and recorded in the run directory: asking again, after a restart too, gives the same answer.
    ``target``: what is shown of it. ``measurements``: how many were made by this object. Where models are not measured at all,
    :meth:`measure_dense` and :meth:`measure_pair` give None, and predictions are the last word.
    """

    target: str
    measurements: int

    @property
    def at_once(self) -> int:
        """How many candidates are measured at the same time."""
        ...

    @property
    def facts(self) -> DeviceFacts:
        """At least ``engine``, ``threads`` and ``profile`` (the name of the profile that fits, or None)."""
        ...

    @property
    def precision(self) -> Precision:
        """How models run there unless another precision is asked for."""
        ...

    @property
    def is_remote(self) -> bool:
        """Whether this machine is idle while it measures."""
        ...

    def kernel_times(self, kernels: Sequence[Kernel], choices: Choices) -> KernelTimes:
        """Times of the kernels at all widths that ``choices`` allow."""
        ...

    def measure_dense(self, path: Path) -> Measurement | None:
        """The dense model by itself."""
        ...

    def measure_pair(self, key: str, dense: Path, path: Path, stop_at: float | None = None) -> PairedMeasurement | None:
        """A candidate in turns with the dense model; recorded under ``key``.  ``stop_at``: fewer rounds will do when they show that the
        ratio is on one side of this one."""
        ...

    def measure_pairs(self, dense: Path, asked: Iterable[Asked]) -> Sequence[PairedMeasurement | None]:
        """:meth:`measure_pair` of several, :attr:`at_once` at a time; in their order.  What making ``asked`` takes happens meanwhile where
        that disturbs nothing."""
        ...

    def choose(self, loop: Loop) -> dict[str, int]:
        """The widths to keep.  Raises :class:`InfeasibleBudgetError`."""
        ...

    def confirm(self, impossible: InfeasibleBudgetError, measure_narrowest: Callable[[], None]) -> None:
        """Raise ``impossible``, which is predicted, or measure what it says of the narrowest plan."""
        ...

    def check_outputs(self, path: Path, inputs: Sequence[Tensor], expected: Callable[[], Sequence[Tensor]], tolerance: float) -> None:
        """Compare what is computed there from ``inputs`` with ``expected()``.

        ``tolerance``: largest difference, as a share of the largest expected value. Raises :class:`ParityError`.
        """
        ...

    def archive(self, analysis: Analysis, precision: Precision) -> Archive | None:
        """What earlier runs measured of models of this structure; None where nothing is kept."""
        ...

    def shipped_with(self, path: Path) -> dict[str, Path]:
        """Files made from the final one, by format."""
        ...

    def description(self) -> dict[str, str | int | None]:
        """The device as the report shows it."""
        ...

    def label(self, summary: RunSummary, path: Path) -> RunSummary:
        """A run's summary that says what was measured and what predicted.  ``path``: the final file."""
        ...

    def release(self) -> None:
        """Let others have the device until the next measurement."""
        ...


def described(target: str, facts: DeviceFacts) -> dict[str, str | int | None]:
    """:meth:`MeasurementBackend.description` of probed ``facts``."""
    runtime, version = facts["runtimes"][facts["engine"]]
    return {
        "target": target,
        "device": facts["board"] or facts["cpu"],
        "architecture": facts["arch"],
        "cores": facts["cores"],
        "os": facts["os"],
        "runtime": f"{runtime} {version}",
        "threads": facts["threads"],
    }
