"""The device's side of a run: every measurement made once, recorded, and recalled after a restart."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from platformdirs import user_cache_path
from torch import Tensor

from edgeprune.bench import Artifact, BenchOptions, Device, Measurement, open_device
from edgeprune.bench.info import DeviceFacts, facts_of
from edgeprune.cost.kernels import Kernel
from edgeprune.cost.latency import KernelTimes, TableTimes
from edgeprune.cost.table import Grid, Table, grid_of, point_key
from edgeprune.devices import parse_address, resolve_target
from edgeprune.devices.events import DeviceEvent
from edgeprune.engines import ENGINES
from edgeprune.errors import DeviceError, InfeasibleBudgetError, InputError, NoRuntimeError, ParityError, suggest
from edgeprune.export.formats import find as find_format
from edgeprune.export.formats import kernel_builders
from edgeprune.graph import Analysis
from edgeprune.runs.directory import RunDirectory
from edgeprune.runs.events import DeviceCooling, DeviceWaiting
from edgeprune.runs.summary import RunSummary
from edgeprune.search.events import EventStream
from edgeprune.search.measure.archive import Archive
from edgeprune.search.measure.backend import Choices, described
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
    """Opens the device when a measurement is really needed, and lets go of it between phases.

    ``engine``: one whose kernels can be timed one by one; None takes the first of them that the device has.
    """

    def __init__(self, run: RunDirectory, target: str, engine: str | None, options: BenchOptions, events: EventStream) -> None:
        check_device_engine(engine)
        self._run, self.target, self._options, self._events = run, target, options, events
        self._device: Device | None = None
        self._wanted = engine
        self.measurements = 0

    @property
    def facts(self) -> DeviceFacts:
        """The device as probed, with ``engine``, ``threads``, ``key`` (identity for caches), ``profile`` and ``meters``."""
        known = self._run.recall_as("device", DeviceFacts)
        if known is None:
            device = self._open()
            engine = self._wanted or next((name for name in kernel_builders() if name in device.info.runtimes), [*kernel_builders()][-1])
            threads = self._options.threads or min(4, device.info.cores)
            plain = device.info.to_json() | {"engine": engine, "threads": threads, "key": device.info.key(engine)}
            self._run.record("device", plain)
            known = facts_of(plain)
        return known

    @property
    def precision(self) -> Precision:
        """float32 files of the device's engine."""
        return float_precision(str(self.facts["engine"]))

    @property
    def is_remote(self) -> bool:
        """Whether the device is another machine than this one: what is done here meanwhile does not disturb it."""
        return parse_address(resolve_target(self.target).address).scheme != "local"

    def kernel_times(self, kernels: Sequence[Kernel], choices: Choices) -> KernelTimes:
        """From the device table."""
        return TableTimes(self.table([grid_of(kernel, choices) for kernel in kernels]), choices)

    def archive(self, analysis: Analysis, precision: Precision) -> Archive | None:
        """What earlier runs measured on this device, with this engine, these threads and in this precision."""
        key = str(self.facts["key"]) + ("" if precision == self.precision else f"-{precision.name}")
        return Archive.of(key, self.facts["threads"] or 1, analysis)

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
            known = self._open().measure([Artifact(path, "dense")], self._options)[0]
            self.measurements += 1
            self._run.record("dense", known.to_json())
        return known

    def measure_pair(self, key: str, dense: Path, path: Path, stop_at: float | None = None) -> PairedMeasurement:
        """A pruned model in turns with the dense one; in fewer rounds where they suffice to tell its ratio from ``stop_at``."""
        known = self._run.recall_by(key, PairedMeasurement.from_json)
        if known is None:
            options = self._options if stop_at is None else replace(self._options, stop_at=stop_at)
            comparison = self._open().compare(Artifact(dense, "dense"), [Artifact(path, "pruned")], options)
            ratio, (before, after) = comparison.ratios[0], comparison.measurements
            known = PairedMeasurement(ratio.ratio, ratio.low, ratio.high, before, after, ratio.log_ratios)
            self.measurements += 1
            self._run.record(key, known.to_json())
            if stop_at is not None:
                self._events.note(f"measured in {len(known.log_ratios)} rounds: {after.stop_reason}")
        return known

    def table(self, grids: Sequence[Grid]) -> Table:
        """Times of all kernels on the grids: from this run, from earlier runs on this device, and the rest measured now."""
        engine, threads = self.facts["engine"], self.facts["threads"]
        mine = Table.open(self._run.path / "table.json")
        shared = Table.open(user_cache_path("edgeprune") / "tables" / f"{self.facts['key']}-t{threads}.json")
        if not mine.times:
            mine.add({key: shared.times[key] for key in map(point_key, mine.missing(grids)) if key in shared.times})
        missing, suffix, build = mine.missing(grids), find_format(engine).suffix, kernel_builders()[engine]
        for start in range(0, len(missing), CHUNK):
            chunk = {point_key(point): point for point in missing[start : start + CHUNK]}
            files = {key + suffix: build(*point) for key, point in chunk.items()}
            self._events.progress("device table", start, len(missing))
            found = self._open().table(files, engine, self._options)
            times = {}
            for key in chunk:
                timed = found[key + suffix]
                if timed.error is not None or not math.isfinite(timed.median_ns):
                    raise DeviceError(f"kernel {key} failed on {self.target}: {timed.error}", remedy="Update the runtime on the device.")
                times[key] = timed.median_ns / 1e6
            mine.add(times)
            shared.add(times)
        self._events.progress("device table", len(missing), len(missing))
        return mine

    def choose(self, loop: Loop) -> dict[str, int]:
        """Those of the best plan that was measured to meet the budget."""
        return loop.run().widths

    def confirm(self, impossible: InfeasibleBudgetError, measure_narrowest: Callable[[], None]) -> None:
        """A measurement has the last word."""
        measure_narrowest()

    def check_outputs(self, path: Path, inputs: Sequence[Tensor], expected: Callable[[], Sequence[Tensor]], tolerance: float) -> None:
        """Raises :class:`ParityError` where what the device computes is not, but for ``tolerance`` of the largest value, ``expected()``."""
        arrays = [value.numpy() for value in inputs]
        if not ENGINES[self.facts["engine"]].int64:  # it holds 64-bit numbers in 32 bits
            arrays = [array.astype(np.int32) if array.dtype == np.int64 else array for array in arrays]
        found = self._open().outputs(Artifact(path), arrays)
        outputs = expected()
        if len(found) != len(outputs):
            raise ParityError(f"{path.name} has {len(found)} outputs on the device, and {len(outputs)} on the host")
        for index, (got, tensor) in enumerate(zip(found, outputs, strict=True)):
            wanted = tensor.detach().numpy()
            if got.size != wanted.size:
                shapes = f"{got.shape} on the device, and {wanted.shape} on the host"
                raise ParityError(f"output {index} of {path.name} has the shape {shapes}")
            error = float(np.abs(got.reshape(wanted.shape) - wanted).max()) / max(float(np.abs(wanted).max()), 1e-6)
            if not error <= tolerance:
                raise ParityError(
                    f"output {index} of {path.name} on the device differs from the host's by {error:.2g} of its largest value"
                )

    def release(self) -> None:
        """Close the connection and free the device's lock until the next measurement."""
        device, self._device = self._device, None
        if device is not None:
            device.close()

    def _open(self) -> Device:
        if self._device is None:
            self._events.begin("connecting", f"to {self.target}")
            known = self._run.recall_as("device", DeviceFacts)
            engines = [known["engine"]] if known else [self._wanted] if self._wanted else list(kernel_builders())
            self._device = self._first_of(engines)
            if known and self._device.info.key(known["engine"]) != known["key"]:
                key = self._device.info.key(known["engine"])
                self.release()
                raise DeviceError(
                    f"{self.target} is now {key}, and the run began on {known['key']}", remedy="Start a new run for this device."
                )
        return self._device

    def _first_of(self, engines: Sequence[str]) -> Device:
        """The device with the first of the engines that it has; where it has none, the error of the first, which suits devices best."""
        first: NoRuntimeError | None = None
        for engine in engines:
            try:
                return open_device(self.target, engine=engine, on_event=self._event)
            except NoRuntimeError as error:
                first = first or error
                self._events.note(f"{self.target} has no {engine} runtime")
        assert first is not None
        raise first

    def _event(self, event: DeviceEvent) -> None:
        """Pass on what takes time: waiting for others, for the device to cool, for a file to arrive."""
        match event:
            case {"event": "waiting", "holder": holder}:
                self._events.emit(DeviceWaiting(self.target, holder))
            case {"event": "cooling", "causes": causes}:
                self._events.emit(DeviceCooling(self.target, causes))
            case {"event": "upload", "name": name, "sent": sent, "total": total}:
                self._events.progress(f"sending {name}", sent, total)
