"""The one decoder of what a device answers: nothing of it is believed before it is complete, of the right types and consistent."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from edgeprune.bench.conditions import Conditions
from edgeprune.bench.consistency import check_ratio
from edgeprune.decode import JsonObject, convert
from edgeprune.devices.runner import to_error
from edgeprune.engines import CPU
from edgeprune.errors import RunnerError

if TYPE_CHECKING:
    import numpy as np

T = TypeVar("T")

REMEDY = "Measure again; if that fails too, the runtime, the clock or the runner on the device is broken: edgeprune teardown, then setup."


@dataclass(frozen=True)
class Operator:
    """Time of one operator."""

    name: str
    type: str
    ms: float


@dataclass(frozen=True)
class ModelAnswer:
    """What the runner says of one model.  Times in ns or, by name, ms and s; sizes in bytes; energies in mJ."""

    name: str
    median_ns: float
    low_ns: float
    high_ns: float
    p90_ns: float
    p99_ns: float
    samples_ns: tuple[int, ...]
    windows: tuple[int, ...]
    drift: float
    outliers: float
    stable: bool
    settled: bool
    stop_reason: str
    warmup_s: float
    sampled_s: float
    others: float | None
    runtime: str
    runtime_version: str
    threads: int
    cpus: tuple[int, ...]
    import_ms: float
    load_ms: float
    first_ms: float
    cold_ms: float
    peak_bytes: int
    rss_peak_bytes: int
    weights_bytes: int | None
    arena_bytes: int | None
    operators: tuple[Operator, ...] | None
    energy_mj: float | None
    energy_low_mj: float | None
    energy_high_mj: float | None
    energy_method: str | None
    before: Conditions
    after: Conditions
    discarded: int
    cooldown_s: float
    throttled: tuple[str, ...]
    unreliable: bool
    note: str
    energy_error: str | None = None
    accelerator: str = CPU
    delegated: float | None = None
    on_cpu: tuple[str, ...] = ()


@dataclass(frozen=True)
class RatioAnswer:
    """What the runner says of a model that was measured in turns with a baseline: the logarithms of the rounds' ratios, and the ratio with
    its interval that it made of them; no ``high`` of a single round."""

    log_ratios: tuple[float, ...]
    ratio: float
    low: float
    high: float | None


@dataclass(frozen=True)
class KernelAnswer:
    """Window medians of one small model of a table."""

    median_ns: float
    min_ns: float
    spread: float


def decoded(value: Any, kind: type[T], device: str, what: str) -> T:
    """``value`` as ``kind``.  Raises :class:`RunnerError` naming the device."""
    try:
        return convert(value, kind)
    except ValueError as error:
        raise RunnerError(f"{what} of {device} is invalid: {error}", remedy=REMEDY) from error


def model_answers(answer: JsonObject, names: Sequence[str], device: str) -> list[JsonObject]:
    """The models of an answer: exactly those that were asked for, in that order.

    Raises :class:`RunnerError`, and what :func:`to_error` makes of a model that failed.
    """
    models = decoded(answer.get("models"), list[JsonObject], device, "the answer")
    if (found := [model.get("name") for model in models]) != list(names):
        given = ", ".join(map(repr, found)) or "none"
        raise RunnerError(f"{device} answered for the models {given}, not for {', '.join(map(repr, names))}", remedy=REMEDY)
    for model in models:
        if "error" in model:
            raise to_error(model["error"], f"{model['name']} on {device}")
    return models


def ratio_of(model: JsonObject, device: str) -> RatioAnswer:
    """A candidate's ratio, which must be what its rounds' ratios make.  Raises :class:`RunnerError`."""
    what = f"the ratio of {model['name']}"
    found = decoded(model, RatioAnswer, device, what)
    try:
        check_ratio(found.ratio, found.low, found.high if found.high is not None else float("inf"), found.log_ratios)
    except ValueError as error:
        raise RunnerError(f"{what} of {device} is invalid: {error}", remedy=REMEDY) from error
    return found


def kernel_answers(answer: JsonObject, names: Sequence[str], device: str) -> dict[str, KernelAnswer | str]:
    """The kernels of a table: exactly those that were asked for; of one that failed its message.  Raises :class:`RunnerError`."""
    kernels = decoded(answer.get("kernels"), dict[str, JsonObject], device, "the table")
    if kernels.keys() != set(names):
        raise RunnerError(f"the table of {device} lists other kernels than were requested", remedy=REMEDY)
    found: dict[str, KernelAnswer | str] = {}
    for name in names:
        if "error" in kernels[name]:
            found[name] = to_error(kernels[name]["error"], name).message
            continue
        one = decoded(kernels[name], KernelAnswer, device, f"kernel {name}")
        if not 0 < one.min_ns <= one.median_ns or one.spread < 0:
            raise RunnerError(f"the times of kernel {name} on {device} are invalid: not positive, or not in order", remedy=REMEDY)
        found[name] = one
    return found


def output_arrays(answer: JsonObject, model: str, device: str) -> list[np.ndarray[Any, Any]]:
    """The tensors that a model made.  Raises :class:`RunnerError`."""
    import numpy as np

    encoded = decoded(answer.get("outputs"), list[str], device, f"the outputs of {model}")
    try:
        return [np.load(io.BytesIO(base64.b64decode(text, validate=True)), allow_pickle=False) for text in encoded]
    except (ValueError, EOFError, OSError, SyntaxError, TypeError, MemoryError) as error:
        raise RunnerError(f"the outputs of {model} of {device} are not arrays: {error}", remedy=REMEDY) from error
