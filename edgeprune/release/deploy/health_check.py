"""Does a release do on a device what it must?  Asked before anything there opens it."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeprune.bench.answers import model_answers, output_arrays
from edgeprune.bench.info import DeviceInfo
from edgeprune.bench.limits import Gate as BenchGate
from edgeprune.bench.results import BenchOptions, Measurement
from edgeprune.budget import Limit
from edgeprune.decode import JsonObject
from edgeprune.devices.events import OnEvent
from edgeprune.devices.runner import Runner
from edgeprune.errors import HealthError, ModelCrashedError, RunnerError
from edgeprune.release.bundle.file import Bundle
from edgeprune.release.bundle.manifest import File, Variant

if TYPE_CHECKING:
    import numpy as np

_START_S = 120.0
_GATES = ("latency", "memory")


@dataclass(frozen=True)
class HealthCheck:
    """What a check-up found.

    ``deviation``: the largest difference of an output from what was expected, as a share of the output's largest magnitude; None without
    expected outputs.  ``latency_ms``, ``peak_bytes``: measured when the release has a gate for one of them.  ``notes``: what could not be
    decided.
    """

    deviation: float | None = None
    latency_ms: float | None = None
    peak_bytes: int | None = None
    notes: tuple[str, ...] = ()


def check_health(runner: Runner, device: DeviceInfo, folder: str, bundle: Bundle, variant: Variant, on_event: OnEvent) -> HealthCheck:
    """Run a variant's model, laid out in ``folder`` on the device: its outputs, and what its gates limit.

    Raises :class:`HealthError` when an output is another, when a limit is surely not kept, or when the model cannot be run at all.
    """
    what = f"{bundle.manifest.product} {bundle.manifest.version} on {device.address}"
    name = variant.model.path
    model: JsonObject = {"name": name, "engine": variant.model.engine, "path": f"{folder}/{name}", "specs": None}
    gates = [BenchGate(gate.kind, Limit(gate.kind, gate.limit, relative=False)) for gate in variant.gates if gate.kind in _GATES]
    if not variant.model.engine:
        return HealthCheck(notes=("nothing here runs the model: neither its outputs nor its gates were checked",))
    try:
        deviation = _compare(runner, device, model, bundle, variant, what, on_event) if variant.health else None
        if not gates:
            return HealthCheck(deviation)
        item = _measure(runner, device, model, variant, on_event)
    except (RunnerError, ModelCrashedError) as error:
        raise HealthError(f"{what} cannot be run: {error.message}", remedy=error.remedy) from error
    said = [gate.judge(item) for gate in gates]
    if failed := [judgement.message for judgement in said if judgement.state == "failed"]:
        raise HealthError(f"{what} does not meet its gates: {'; '.join(failed)}")
    notes = tuple(judgement.message for judgement in said if judgement.state == "inconclusive")
    return HealthCheck(deviation, item.latency_ms, item.peak_bytes, notes)


def _compare(
    runner: Runner, device: DeviceInfo, model: JsonObject, bundle: Bundle, variant: Variant, what: str, on_event: OnEvent
) -> float:

    health = variant.health
    assert health is not None
    files = {file.path: file for file in variant.files}
    arrays = [base64.b64encode(bundle.read(files[path])).decode("ascii") for path in health.inputs]
    options = BenchOptions()
    limit_s = _START_S + 2 * options.step_timeout_s
    request = {"model": model | {"arrays": arrays}, "options": options.request(device.cores)}
    found = output_arrays(runner.request("outputs", limit_s, on_event, **request), variant.model.path, device.address)
    if len(found) != len(health.outputs):
        raise HealthError(f"{what} gives {len(found)} outputs, not {len(health.outputs)}")
    worst = 0.0
    for path, array in zip(health.outputs, found, strict=True):
        deviation = _deviation(array, _load(bundle, files[path]))
        if not deviation <= health.tolerance:
            raise HealthError(f"{what} gives another output than {path}: off by {deviation:.2g}, with {health.tolerance:.2g} allowed")
        worst = max(worst, deviation)
    return worst


def _load(bundle: Bundle, file: File) -> np.ndarray[Any, Any]:
    import numpy as np

    array: np.ndarray[Any, Any] = np.load(io.BytesIO(bundle.read(file)), allow_pickle=False)
    return array


def _deviation(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> float:
    """The largest difference as a share of the largest magnitude expected; infinite for another shape, NaN where either is."""
    import numpy as np

    if found.shape != expected.shape:
        return float("inf")
    difference = float(np.abs(found.astype(np.float64) - expected.astype(np.float64)).max(initial=0.0))
    largest = float(np.abs(expected.astype(np.float64)).max(initial=0.0))
    if largest == 0.0:
        return 0.0 if difference == 0.0 else float("inf")
    return difference / largest


def _measure(runner: Runner, device: DeviceInfo, model: JsonObject, variant: Variant, on_event: OnEvent) -> Measurement:
    """As the evidence was measured: with as many threads, but shorter."""
    threads = next((item.threads for item in variant.evidence if item.artifact == variant.model.sha256), None)
    options = BenchOptions(threads=threads, min_time_s=0.5, max_time_s=5.0, warmup_s=1.0, energy=False)
    limit_s = _START_S + 8 * options.step_timeout_s + options.cooldown_s
    answer = runner.request("bench", limit_s, on_event, models=[model], options=options.request(device.cores))
    (result,) = model_answers(answer, [variant.model.path], device.address)
    return Measurement.from_answer(result, (variant.model.bytes, variant.model.sha256), device.identity, device.address)
