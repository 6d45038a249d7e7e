"""A device, ready to measure."""

from __future__ import annotations

import base64
import hashlib
import io
import math
import time
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

from edgeprune.bench.answers import REMEDY, KernelAnswer, decoded, kernel_answers, model_answers, output_arrays, ratio_of
from edgeprune.bench.info import DeviceInfo
from edgeprune.bench.results import (
    Artifact,
    BenchOptions,
    Comparison,
    KernelTime,
    Measurement,
    Ratio,
    check_accelerator,
    check_engine,
    check_names,
)
from edgeprune.decode import JsonObject
from edgeprune.devices.android import describe
from edgeprune.devices.connect import connect, with_retries
from edgeprune.devices.events import DeviceEvent, OnEvent
from edgeprune.devices.runner import Runner, open_runner, runtimes_of
from edgeprune.devices.targets import Target, resolve_target
from edgeprune.engines import CPU, TFLITE
from edgeprune.errors import ConnectionLostError, DeviceError, RunnerError
from edgeprune.host import Disturber, Watch, own_processes
from edgeprune.tflite.versions import check_runtime

if TYPE_CHECKING:
    import numpy as np

T = TypeVar("T")
_START_S = 60.0
_SLOW_STEPS = 8  # of a model whose every run takes nearly the step's limit: loading, warming up, six windows
_ENERGY_S = 300.0  # the runner's windows take three minutes at most, a slow meter's period is found in some seconds


class Device:
    """A device that is connected to, locked for this process, and able to run the wanted engines.  Use :func:`open_device`.

    A connection that drops is opened again, and the request repeated, ``retries`` times.  A context manager; leaving it frees the lock and
    removes everything that was put on the device but the runner itself.
    """

    def __init__(
        self,
        target: Target,
        engines: Sequence[str],
        lock_timeout_s: float,
        retries: int,
        on_event: OnEvent | None,
        native: str | None = None,
        accelerator: str | None = None,
    ) -> None:
        self.target = target
        self.accelerator = accelerator or target.accelerator or CPU
        self._retries, self._on_event = retries, on_event
        self._open = partial(
            open_runner,
            target.address,
            tuple(engines),
            lock_timeout_s=lock_timeout_s,
            on_event=on_event,
            native=native,
            accelerator=self.accelerator,
        )
        self._runner: Runner | None = None
        self._sent: dict[str, tuple[int, str]] = {}  # size and hash of each model as it was sent: its file may be another by now
        self.info: DeviceInfo = self._attempt(lambda runner: DeviceInfo.from_probe(target.address, runner.probe, self.accelerator))

    def _attempt(self, work: Callable[[Runner], T]) -> T:
        def once() -> T:
            if self._runner is None:
                self._runner = self._open()
            try:
                return work(self._runner)
            except ConnectionLostError:
                self.close()
                raise
            except DeviceError as error:
                if self._runner.holding:
                    raise
                self.close()
                raise ConnectionLostError(f"the lock on {self.target.name} was lost: {error.message}") from error

        return with_retries(once, self._retries)

    def _model(self, runner: Runner, artifact: Artifact) -> JsonObject:
        """Send a model and describe it to the runner."""
        engine = artifact.engine
        data = artifact.path.read_bytes()
        if engine in self.info.runtimes and engine == TFLITE:
            check_runtime(data, artifact.name, *self.info.runtimes[engine])
        self._sent[artifact.name] = (len(data), hashlib.sha256(data).hexdigest())
        path = runner.put_model(data, artifact.path.suffix, self._progress(artifact.name))
        specs = [{"shape": list(shape), "dtype": dtype} for shape, dtype in artifact.inputs] or None
        return {"name": artifact.name, "engine": engine, "path": path, "specs": specs}

    def _progress(self, name: str) -> Callable[[int, int], None]:
        def tell(sent: int, total: int) -> None:
            if self._on_event:
                self._on_event({"event": "upload", "name": name, "sent": sent, "total": total})

        return tell

    def _models(
        self, action: str, artifacts: Sequence[Artifact], options: BenchOptions, limit_s: float
    ) -> tuple[list[JsonObject], list[Measurement]]:
        """Answers and measurements of the models, all of them checked."""
        check_names(artifacts)

        def work(runner: Runner) -> JsonObject:
            models = [self._model(runner, artifact) for artifact in artifacts]
            return runner.request(action, limit_s, self._on_event, models=models, options=self._options(options))

        watch = Watch() if self.target.is_here else None
        begin = time.monotonic()
        answer = self._attempt(work)
        elsewhere = watch.others() if watch is not None else None
        results = model_answers(answer, [artifact.name for artifact in artifacts], self.target.name)
        tuned = decoded(answer.get("tuned"), tuple[str, ...], self.target.name, "the answer")
        elapsed_s = time.monotonic() - begin
        measured = [
            self._measurement(item.name, _with_others(result, elsewhere), tuned, elapsed_s, _disturber(elsewhere))
            for item, result in zip(artifacts, results, strict=True)
        ]
        return results, measured

    def _options(self, options: BenchOptions) -> JsonObject:
        """For the runner; here, what this program runs beside it does not count as another one."""
        return self._settled(options) | ({"own": own_processes()} if self.target.is_here else {})

    def _settled(self, options: BenchOptions) -> JsonObject:
        """For the runner, with this device's accelerator."""
        return options.request(self.info.cores) | {"accelerator": self.accelerator}

    def _measurement(self, name: str, result: JsonObject, tuned: tuple[str, ...], elapsed_s: float, disturber: str) -> Measurement:
        """One model's, with samples that fit into the time that passed here."""
        where = self.target.name
        item = Measurement.from_answer(result, self._sent[name], self.info.identity, where, tuned, disturber)
        if item.accelerator != self.accelerator:
            raise RunnerError(f"{name} ran on {item.accelerator} of {where}, and {self.accelerator} was asked for", remedy=REMEDY)
        if (ran_s := sum(item.samples_ns) / 1e9) > elapsed_s:
            raise RunnerError(
                f"the measurement of {name} of {where} is invalid: its samples take {ran_s:.3g} s, and only {elapsed_s:.3g} s passed",
                remedy=REMEDY,
            )
        return item

    def measure(self, artifacts: Sequence[Artifact], options: BenchOptions | None = None) -> list[Measurement]:
        """Measure each model by itself.

        Raises :class:`ModelCrashedError` naming the model whose process died, :class:`RunnerError` when the runtime refuses one,
        :class:`TransientError` when the device stays unreachable.  The device remains usable after each.
        """
        options = options or BenchOptions()
        one_s = _START_S + _SLOW_STEPS * options.step_timeout_s + options.warmup_s + options.max_time_s + options.cooldown_s
        limit_s = len(artifacts) * (one_s + (_ENERGY_S if options.energy else 0.0))
        return self._models("bench", artifacts, options, limit_s)[1]

    def sustain(self, artifacts: Sequence[Artifact], duration_s: float, options: BenchOptions) -> JsonObject:
        """The runner's answer of models that run in turns for ``duration_s`` without a pause, see :mod:`edgeprune.bench.sustained`.

        Raises what :meth:`measure` raises.
        """
        check_names(artifacts)

        def work(runner: Runner) -> JsonObject:
            models = [self._model(runner, artifact) for artifact in artifacts]
            limit_s = len(artifacts) * (_START_S + _SLOW_STEPS * options.step_timeout_s) + 2 * duration_s
            return runner.request("sustain", limit_s, self._on_event, models=models, options=self._options(options), duration_s=duration_s)

        return self._attempt(work)

    def compare(self, baseline: Artifact, candidates: Sequence[Artifact], options: BenchOptions | None = None) -> Comparison:
        """Measure models in turns, in one session: the ratio of each candidate to the baseline does not suffer from drift.

        Raises what :meth:`measure` raises.
        """
        options = options or BenchOptions(max_time_s=20.0)
        artifacts = [baseline, *candidates]
        limit_s = len(artifacts) * 2 * (_START_S + options.step_timeout_s + options.rounds * options.warmup_s + options.max_time_s)
        limit_s += options.cooldown_s + len(artifacts) * (_ENERGY_S if options.energy else 0.0)
        results, measurements = self._models("compare", artifacts, options, limit_s)
        ratios = tuple(
            Ratio.of_rounds(one.name, ratio_of(result, self.target.name).log_ratios)
            for one, result in zip(candidates, results[1:], strict=True)
        )
        return Comparison(tuple(measurements), ratios)

    def table(
        self,
        files: dict[str, bytes],
        engine: str = TFLITE,
        options: BenchOptions | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, KernelTime]:
        """Time many small models, by name, in one process on the device; sent as one file.

        ``on_progress`` gets (windows done, in total).  A model that fails has an ``error``, the others continue.
        """
        options = options or BenchOptions()
        if not files:
            return {}
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
            for name in sorted(files):
                archive.writestr(zipfile.ZipInfo(name), files[name])

        def event(message: DeviceEvent) -> None:
            if message["event"] == "table" and on_progress:
                on_progress(message["done"], message["total"])
            elif self._on_event:
                self._on_event(message)

        def work(runner: Runner) -> JsonObject:
            path = runner.put_model(packed.getvalue(), ".zip", self._progress("table"))
            fields = {"archive": path, "engine": engine, "rounds": options.table_rounds, "options": self._settled(options)}
            limit_s = _START_S + options.step_timeout_s + options.table_rounds * len(files) * 5.0 + options.cooldown_s
            return runner.request("table", limit_s, event, **fields)

        return {name: _kernel_time(item) for name, item in kernel_answers(self._attempt(work), list(files), self.target.name).items()}

    def outputs(
        self, artifact: Artifact, inputs: Sequence[np.ndarray[Any, Any]] | None = None, seed: int = 0
    ) -> list[np.ndarray[Any, Any]]:
        """What a model computes on the device from ``inputs`` (one array each, in the model's shapes and dtypes), or from seeded ones."""
        import numpy as np

        def encode(array: np.ndarray[Any, Any]) -> str:
            file = io.BytesIO()
            np.save(file, np.asarray(array, order="C"), allow_pickle=False)
            return base64.b64encode(file.getvalue()).decode("ascii")

        options = BenchOptions(seed=seed)

        def work(runner: Runner) -> JsonObject:
            model = self._model(runner, artifact) | {"arrays": [encode(array) for array in inputs] if inputs is not None else None}
            limit_s = _START_S + 2 * options.step_timeout_s
            return runner.request("outputs", limit_s, self._on_event, model=model, options=self._settled(options))

        return output_arrays(self._attempt(work), artifact.name, self.target.name)

    def close(self) -> None:
        """Free the lock, remove the session's folder, close the connection."""
        runner, self._runner = self._runner, None
        if runner is not None:
            runner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


Elsewhere = tuple[float, list[Disturber]]
"""The share of the processors' time that other programs took, and which of them."""


def _with_others(result: JsonObject, elsewhere: Elsewhere | None) -> JsonObject:
    """The runner's answer, with what this machine tells of other programs where its kernel tells the runner nothing (macOS)."""
    return result if elsewhere is None or result.get("others") is not None else result | {"others": elsewhere[0]}


def _disturber(elsewhere: Elsewhere | None) -> str:
    """The program that took most of the processors' time meanwhile; "" where none is known."""
    return str(elsewhere[1][0]) if elsewhere is not None and elsewhere[1] else ""


def _kernel_time(item: KernelAnswer | str) -> KernelTime:
    if isinstance(item, str):
        return KernelTime(math.nan, math.nan, math.nan, item)
    return KernelTime(item.median_ns, item.min_ns, item.spread)


def probe(target: str) -> DeviceInfo:
    """What a device is, without waiting for its lock; every installed runtime is really imported there.

    Raises what :func:`open_device` raises, but never for a missing runtime.
    """
    chosen = resolve_target(target)
    if chosen.address.startswith("adb:"):
        with connect(chosen.address) as session:
            return DeviceInfo.from_probe(chosen.address, describe(session))
    with open_runner(chosen.address, lock=False) as runner:
        limit_s = 5 * _START_S
        return DeviceInfo.from_probe(chosen.address, runner.request("probe", limit_s, verify=list(runtimes_of(runner)), accelerators=True))


def open_device(
    target: str,
    *,
    engine: str | Sequence[str] | None = TFLITE,
    lock_timeout_s: float = 600.0,
    retries: int = 2,
    on_event: OnEvent | None = None,
    native: str | None = None,
    accelerator: str | None = None,
) -> Device:
    """Open a target (a name, or an address such as ``local:`` or ``ssh://user@host``) for measuring.

    ``engine``: what it must be able to run; None takes any device.  ``native``: path on the device of the binary of the engine ``native``,
    the one on the PATH unless given.  ``accelerator``: what runs its models (see :class:`BenchOptions`); None means the target's.

    While another user holds the device, ``on_event`` gets ``{"event": "waiting", "holder": ...}``, and after ``lock_timeout_s``
    :class:`DeviceBusyError` is raised.  Also raises :class:`TargetError`, :class:`UnreachableError`, :class:`HostKeyError`,
    :class:`AuthenticationError`, :class:`NoRuntimeError`, :class:`AcceleratorError`, :class:`DeviceFullError`.
    """
    check_accelerator(accelerator)
    engines = (engine,) if isinstance(engine, str) else tuple(engine or ())
    for name in engines:
        check_engine(name)
    return Device(resolve_target(target), engines, lock_timeout_s, retries, on_event, native, accelerator)
