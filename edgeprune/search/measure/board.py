"""One device that a run measures on.  Nothing is recorded here."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from edgeprune.bench import Artifact, BenchOptions, Device, Measurement, Ratio, open_device
from edgeprune.bench.info import DeviceFacts, facts_of
from edgeprune.cost.table import Point, point_key
from edgeprune.devices import resolve_target
from edgeprune.devices.events import DeviceEvent
from edgeprune.engines import CPU, ENGINES
from edgeprune.errors import DeviceError, NoRuntimeError, ParityError
from edgeprune.export.formats import find as find_format
from edgeprune.export.formats import kernel_builders
from edgeprune.runs.events import ROUNDS, DeviceCooling, DeviceWaiting
from edgeprune.search.events import EventStream
from edgeprune.search.measure.paired import PairedMeasurement, Part
from edgeprune.search.measure.rounds import Round, options_of


class Board:
    """Connected to, and locked, from its first measurement until it is released.

    ``engine``: one whose kernels can be timed one by one; None takes the first of them that the device has. ``known``: what it was when the
    run began; another device in its place is refused.
    """

    def __init__(self, target: str, engine: str | None, options: BenchOptions, events: EventStream) -> None:
        self.target = target
        self.known: DeviceFacts | None = None
        self._wanted, self._options, self._events = engine, options, events
        self._device: Device | None = None
        self._opened = ""

    @property
    def is_remote(self) -> bool:
        """Whether it is another machine than this one: what is done here meanwhile does not disturb it."""
        return not resolve_target(self.target).is_here

    def probe(self) -> DeviceFacts:
        """The device with ``engine``, ``threads``, ``key`` (identity for caches), ``profile`` and ``meters``: as when the run began."""
        if self.known is None:
            device = self._open()
            engine = self._wanted or self._engine_of(device)
            threads = self._options.threads or min(4, device.info.cores)
            self.known = facts_of(device.info.to_json() | {"engine": engine, "threads": threads, "key": device.info.key(engine)})
        return self.known

    def _engine_of(self, device: Device) -> str:
        """The first that it has; on an accelerator, the first that can use that."""
        if device.info.accelerator != CPU:
            return self._opened
        return next((name for name in kernel_builders() if name in device.info.runtimes), [*kernel_builders()][-1])

    def measure(self, path: Path) -> Measurement:
        """The dense model by itself."""
        return self._open().measure([Artifact(path, "dense")], self._options)[0]

    def compare(self, dense: Path, path: Path, stop_at: float | None = None) -> PairedMeasurement:
        """A pruned model in turns with the dense one; in fewer rounds where they suffice to tell its ratio from ``stop_at``."""
        ratio, before, after = self._compare(dense, path, self._options if stop_at is None else replace(self._options, stop_at=stop_at))
        return PairedMeasurement(ratio.ratio, ratio.low, ratio.high, before, after, ratio.log_ratios)

    def one_round(self, dense: Path, task: Round) -> Part:
        """A single round of a comparison that boards share."""
        ratio, before, after = self._compare(dense, task.asked.path, options_of(task, self._options))
        return Part(before, after, ratio.log_ratios)

    def _compare(self, dense: Path, path: Path, options: BenchOptions) -> tuple[Ratio, Measurement, Measurement]:
        comparison = self._open().compare(Artifact(dense, "dense"), [Artifact(path, "pruned")], options)
        before, after = comparison.measurements
        return comparison.ratios[0], before, after

    def time(self, points: Sequence[Point]) -> dict[str, float]:
        """Milliseconds of single kernels, by :func:`point_key`: the median of their windows, on an accelerator the least, since what the
        driver and the processor do meanwhile only adds to it.  Raises :class:`DeviceError` for one that does not run."""
        engine, least = self.probe()["engine"], self.probe().get("accelerator", CPU) != CPU
        suffix, build = find_format(engine).suffix, kernel_builders()[engine]
        found = self._open().table({point_key(point) + suffix: build(*point) for point in points}, engine, self._options)
        times = {}
        for key in map(point_key, points):
            timed = found[key + suffix]
            if timed.error is not None or not math.isfinite(timed.median_ns):
                raise DeviceError(f"kernel {key} failed on {self.target}: {timed.error}", remedy="Update the runtime on the device.")
            times[key] = (timed.min_ns if least else timed.median_ns) / 1e6
        return times

    def check_outputs(self, path: Path, inputs: Sequence[Tensor], expected: Callable[[], Sequence[Tensor]], tolerance: float) -> None:
        """Raises :class:`ParityError` where what the device computes is not, but for ``tolerance`` of the largest value, ``expected()``."""
        arrays = [value.numpy() for value in inputs]
        if not ENGINES[self.probe()["engine"]].int64:  # it holds 64-bit numbers in 32 bits
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
            known = self.known
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
                self._opened = engine
                return open_device(self.target, engine=engine, on_event=self._event, accelerator=self._options.accelerator)
            except NoRuntimeError as error:
                first = first or error
                where = "" if self._options.accelerator in (None, CPU) else f" that can use {self._options.accelerator}"
                self._events.note(f"{self.target} has no {engine} runtime{where}")
        assert first is not None
        raise first

    def _event(self, event: DeviceEvent) -> None:
        """Pass on what takes time: waiting for others, for the device to cool, for a file to arrive."""
        match event:
            case {"event": "waiting", "holder": holder}:
                self._events.emit(DeviceWaiting(self.target, holder))
            case {"event": "cooling", "causes": causes}:
                self._events.emit(DeviceCooling(self.target, causes))
            case {"event": "round", "number": number, "rounds": rounds}:
                self._events.progress(ROUNDS, number, max(number, rounds), detail=_so_far(event))
            case {"event": "upload", "name": name, "sent": sent, "total": total}:
                self._events.progress(f"sending {name}", sent, total)


def _so_far(event: DeviceEvent) -> str | None:
    """The ratio of latencies after the rounds until now, in percent, with its interval."""
    match event:
        case {"ratio": ratio, "low": low, "high": high}:
            return f"{100 * ratio:.1f} % [{100 * low:.3g}, {100 * high:.3g}]"
        case _:
            return None
