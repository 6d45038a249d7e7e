"""The device's side of a run: every measurement made once, recorded, and recalled after a restart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from platformdirs import user_cache_path
from torch import Tensor

from edgeprune.bench import BenchOptions, Measurement
from edgeprune.bench.info import DeviceFacts
from edgeprune.cost.kernels import Kernel
from edgeprune.cost.latency import KernelTimes, TableTimes
from edgeprune.cost.step import POINTS, channel_step
from edgeprune.cost.table import Grid, Point, Table, grid_of, point_key
from edgeprune.engines import CPU
from edgeprune.errors import InfeasibleBudgetError, InputError, suggest
from edgeprune.export.formats import kernel_builders
from edgeprune.graph import Analysis
from edgeprune.runs.directory import RunDirectory
from edgeprune.runs.summary import RunSummary
from edgeprune.search.events import EventStream
from edgeprune.search.measure.archive import Archive
from edgeprune.search.measure.backend import Asked, Choices, described
from edgeprune.search.measure.board import Board
from edgeprune.search.measure.paired import PairedMeasurement
from edgeprune.search.plan.loop import Loop
from edgeprune.search.precision import Precision, float_precision

CHUNK = 96
"""Kernels measured at a time: what a kill can cost."""


def check_device_engine(engine: str | None) -> None:
    """Raise :class:`InputError` for an engine whose kernels cannot be timed one by one."""
    timed = kernel_builders()
    if engine is not None and engine not in timed:
        raise InputError(f"unknown engine {engine!r}", remedy=suggest(engine, timed, "engines"))


class DeviceBackend:
    """Opens the device when a measurement is really needed, and lets go of it between phases.  ``engine``: see :class:`Board`."""

    def __init__(self, run: RunDirectory, target: str, engine: str | None, options: BenchOptions, events: EventStream) -> None:
        check_device_engine(engine)
        self._run, self.target, self._events = run, target, events
        self._board = Board(target, engine, options, events)
        self._board.known = run.recall_as("device", DeviceFacts)
        self.measurements = 0

    @property
    def at_once(self) -> int:
        """One."""
        return 1

    @property
    def facts(self) -> DeviceFacts:
        """The device as probed, with ``engine``, ``threads``, ``key`` (identity for caches), ``profile`` and ``meters``."""
        known = self._run.recall_as("device", DeviceFacts)
        if known is None:
            known = self._with_step(self._board.probe())
            self._run.record("device", known)
        return known

    def _with_step(self, facts: DeviceFacts) -> DeviceFacts:
        """Of an accelerator: with the multiples of channels that pay, which no profile knows."""
        if is_processor(facts):
            return facts
        kept = table_of(facts)
        missing = [point for point in POINTS if point_key(point) not in kept.times]
        if missing:
            self._events.begin("measuring", "which multiples of channels pay")
            kept.add(self._board.time(missing))
        return DeviceFacts(**facts | {"channel_step": channel_step(kept.times)})

    @property
    def precision(self) -> Precision:
        """float32 files of the device's engine."""
        return float_precision(str(self.facts["engine"]))

    @property
    def is_remote(self) -> bool:
        """Whether the device is another machine than this one: what is done here meanwhile does not disturb it."""
        return self._board.is_remote

    def kernel_times(self, kernels: Sequence[Kernel], choices: Choices) -> KernelTimes:
        """From the device table."""
        accelerated = not is_processor(self.facts)
        return TableTimes(self.table([grid_of(kernel, choices, accelerated) for kernel in kernels]), choices)

    def archive(self, analysis: Analysis, precision: Precision) -> Archive | None:
        """What earlier runs measured on this device, with this engine, these threads and in this precision."""
        return archive_of(self.facts, analysis, "" if precision == self.precision else precision.name)

    def shipped_with(self, path: Path) -> dict[str, Path]:
        """No other file."""
        return {}

    def description(self) -> dict[str, str | int | None]:
        """The device as probed."""
        return described(self.target, self.facts)

    def label(self, summary: RunSummary, path: Path) -> RunSummary:
        """The summary as it is: everything in it is measured."""
        return summary

    def measure_dense(self, path: Path) -> Measurement:
        """The dense model by itself."""
        known = self._run.recall_by("dense", Measurement.from_json)
        if known is None:
            self._events.begin("measuring", "the dense model")
            known = self._board.measure(path)
            self.measurements += 1
            self._run.record("dense", known.to_json())
        return known

    def measure_pair(self, key: str, dense: Path, path: Path, stop_at: float | None = None) -> PairedMeasurement:
        """A pruned model in turns with the dense one; in fewer rounds where they suffice to tell its ratio from ``stop_at``."""
        known = self._run.recall_by(key, PairedMeasurement.from_json)
        if known is None:
            self._events.begin("measuring", f"{'the pruned model' if key.startswith('final') else 'a plan'} in turns with the dense model")
            known = self._board.compare(dense, path, stop_at)
            self._keep(key, known, stop_at)
        return known

    def measure_pairs(self, dense: Path, asked: Iterable[Asked]) -> list[PairedMeasurement]:
        """One after another."""
        return [self.measure_pair(one.key, dense, one.path, one.stop_at) for one in asked]

    def _keep(self, key: str, pair: PairedMeasurement, stop_at: float | None) -> None:
        """Record what was measured."""
        self.measurements += 1
        self._run.record(key, pair.to_json())
        if stop_at is not None:
            where = f"{pair.board}: " if pair.board else ""
            self._events.note(f"{where}measured in {pair.rounds} rounds: {pair.model.stop_reason}")

    def table(self, grids: Sequence[Grid]) -> Table:
        """Times of all kernels on the grids: from this run, from earlier runs on this device, and the rest measured now."""
        mine = Table.open(self._run.path / "table.json")
        mine.launches = not is_processor(self.facts)
        if not mine.times:
            mine.add(self._known_times([point_key(point) for point in mine.missing(grids)]))
        missing = mine.missing(grids)
        done, total = 0, len(missing)
        self._events.progress("device table", done, total)
        for times in self._timed(missing):
            mine.add(times)
            done += len(times)
            self._events.progress("device table", done, total)
        return mine

    def _known_times(self, keys: Sequence[str]) -> dict[str, float]:
        """Of these kernels what earlier runs measured, in milliseconds."""
        known = table_of(self.facts).times
        return {key: known[key] for key in keys if key in known}

    def _timed(self, points: Sequence[Point]) -> Iterator[dict[str, float]]:
        """These kernels' times in milliseconds, some at a time, kept for later runs."""
        for start in range(0, len(points), CHUNK):
            times = self._board.time(points[start : start + CHUNK])
            table_of(self.facts).add(times)
            yield times

    def choose(self, loop: Loop) -> dict[str, int]:
        """Those of the best plan that was measured to meet the budget."""
        return loop.run().widths

    def confirm(self, impossible: InfeasibleBudgetError, measure_narrowest: Callable[[], None]) -> None:
        """A measurement has the last word."""
        measure_narrowest()

    def check_outputs(self, path: Path, inputs: Sequence[Tensor], expected: Callable[[], Sequence[Tensor]], tolerance: float) -> None:
        """Raises :class:`ParityError` where what the device computes is not, but for ``tolerance`` of the largest value, ``expected()``."""
        self._board.check_outputs(path, inputs, expected, tolerance)

    def release(self) -> None:
        """Close the connection and free the device's lock until the next measurement."""
        self._board.release()


def is_processor(facts: DeviceFacts) -> bool:
    """Whether the device's processor runs the models."""
    return facts.get("accelerator", CPU) == CPU


def table_of(facts: DeviceFacts) -> Table:
    """The device's table of all runs, in the user's cache."""
    return Table.open(user_cache_path("edgeprune") / "tables" / f"{facts['key']}-t{facts['threads']}.json")


def archive_of(facts: DeviceFacts, analysis: Analysis, precision: str) -> Archive:
    """What all runs measured on the device of models of that structure.  ``precision``: "" for its engine's float32."""
    key = str(facts["key"]) + (f"-{precision}" if precision else "")
    return Archive.of(key, facts["threads"] or 1, analysis)
