"""What is asked of a device, and what it answers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from edgeprune.bench.advice import NO_ENERGY, advice
from edgeprune.bench.answers import REMEDY, ModelAnswer, decoded
from edgeprune.bench.conditions import Conditions
from edgeprune.bench.consistency import check
from edgeprune.bench.intervals import latencies_ms, trimmed_interval
from edgeprune.decode import JsonObject, convert
from edgeprune.engines import CPU, ENGINE_OF_SUFFIX, ENGINES
from edgeprune.errors import IncomparableError, InputError, RunnerError, suggest

INCONCLUSIVE_WIDTH = 0.10
"""A ratio whose 99 % interval is wider than this share of it gives no verdict."""

MOST_THREADS = 1024
_HOTTEST = 200
_LONGEST = 86_400  # a day, in seconds, is more than anybody means
_ACCELERATOR = re.compile(r"[\w./:+-]+(\?[^?=,\s]+=[^?,\s]*(,[^?=,\s]+=[^?,\s]*)*)?")
_AFFINITY = re.compile(r"all|big|little|\d+(-\d+)?(,\d+(-\d+)?)*")

Verdict = Literal["faster", "slower", "same", "inconclusive"]


@dataclass(frozen=True)
class Artifact:
    """A model file.  ``name`` is its file name unless given.

    ``inputs`` are (shape, dtype) pairs, for files that do not hold them.  ``engine_name``: what runs it, by default given by its suffix:
    ``native`` runs a .tflite file by the device's ``benchmark_model``.
    """

    path: Path
    name: str = ""
    inputs: tuple[tuple[tuple[int, ...], str], ...] = ()
    engine_name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))
        object.__setattr__(self, "name", self.name or self.path.name)

    @property
    def engine(self) -> str:
        """The engine that runs it.  Raises :class:`InputError` when it or the suffix is unknown, or the file missing."""
        if self.engine_name:
            check_engine(self.engine_name)
        elif self.path.suffix not in ENGINE_OF_SUFFIX:
            remedy = suggest(self.path.suffix, ENGINE_OF_SUFFIX, "suffixes")
            raise InputError(f"{self.path} is of an unknown kind", remedy=remedy)
        if not self.path.is_file():
            why = "is a folder" if self.path.is_dir() else "does not exist"
            raise InputError(f"model {self.path} {why}", remedy="Give the path of an exported file: edgeprune export writes one.")
        return self.engine_name or ENGINE_OF_SUFFIX[self.path.suffix]


_EARLIER_NAMES = {"held_back": "throttled", "spoilt": "unreliable"}


def with_current_names(document: Any) -> Any:
    """A stored measurement with the fields of today.  Those of releases before 0.2.0 have other names; up to 0.2.0, only a warning said why
    a meter gave no energy."""
    if not isinstance(document, dict):
        return document
    found = {_EARLIER_NAMES.get(name, name): value for name, value in document.items()}
    if "energy_error" not in found and isinstance(warnings := found.get("warnings"), (list, tuple)):
        said = (str(one).removeprefix(NO_ENERGY) for one in warnings if str(one).startswith(NO_ENERGY))
        found["energy_error"] = next(said, None)
    return found


def check_accelerator(name: str | None) -> None:
    """Raise :class:`InputError` for what cannot be an accelerator's name."""
    if name is not None and not _ACCELERATOR.fullmatch(name):
        raise InputError(
            f"{name!r} cannot be an accelerator",
            remedy="Name one: cpu, gpu, npu, a provider such as openvino, the path of a delegate; options follow as ?key=value,key=value.",
        )


def check_engine(name: str) -> None:
    """Raise :class:`InputError` listing the known engines when ``name`` is not one."""
    if name not in ENGINES:
        raise InputError(f"unknown engine {name!r}", remedy=suggest(name, ENGINES, "engines"))


@dataclass(frozen=True)
class BenchOptions:
    """How to measure.

    ``threads``: None means the number of usable cores, at most 4.  After at most ``warmup_s`` of warm-up, sampling ends when both
    ``min_time_s`` have passed and the 95 % interval of the median is narrower than ``relative_width`` of it, or at ``max_time_s``.
    ``rounds``: the least number of times that a comparison restarts its processes.  ``energy``: one more run measures it if there is a
    meter: the first that works, or ``meter`` (such as ``battery``, ``command:TOOL``, ``serial:PORT@BAUD``).  ``window_ms``,
    ``window_runs``, ``table_rounds``: a table's windows.  A model that does not answer for ``step_timeout_s`` is given up.

    ``affinity``: the processors to use: ``all``, ``big`` or ``little`` ones, or a list such as ``0,2-3``.  ``tune``: fix the clocks while
    measuring, and restore them afterwards.  ``limit_c``: nothing is measured above this temperature, besides the device's own limits;
    ``cooldown_s``: the longest wait for a throttled device.  ``profile``: time each operator too, if the engine reports it.  ``native``:
    path on the device of the binary of the engine ``native``.  ``accelerator``: what runs the models: ``cpu``, ``gpu``, ``npu``, a
    provider such as ``openvino``, the path of a delegate, each with options (``openvino?device_type=CPU``); None means the target's, the
    processor unless it has one.  ``require_delegated``: the least share of the operators that it has to take.  ``stop_at``: a comparison
    may end after fewer than ``rounds`` (three at least) as soon as the intervals of its ratios do not hold this one and are no wider than
    a tenth, or are as narrow as ``relative_width``: a model at that very ratio is put on one side of it by chance in at most 6 of 100
    comparisons.  ``only_round``: a comparison is this one of its ``rounds``, counted from 0: other devices measure the others.
    """

    threads: int | None = None
    min_time_s: float = 1.0
    max_time_s: float = 10.0
    relative_width: float = 0.02
    warmup_s: float = 3.0
    rounds: int = 8
    energy: bool = True
    seed: int = 0
    table_rounds: int = 3
    window_ms: float = 15.0
    window_runs: int = 20
    window_cap_ms: float = 150.0
    step_timeout_s: float = 120.0
    affinity: str = "all"
    tune: bool = False
    limit_c: float | None = None
    cooldown_s: float = 60.0
    meter: str | None = None
    profile: bool = False
    native: str | None = None
    stop_at: float | None = None
    accelerator: str | None = None
    require_delegated: float | None = None
    only_round: int | None = None

    def __post_init__(self) -> None:
        check_accelerator(self.accelerator)
        if self.require_delegated is not None and not 0 < self.require_delegated <= 1:
            raise InputError(
                f"the required share {self.require_delegated!r} must be above 0 and at most 1", remedy="Write one such as 95%."
            )
        positive = ("min_time_s", "max_time_s", "relative_width", "rounds", "table_rounds", "window_ms", "window_runs", "step_timeout_s")
        for name in positive:
            if not 0 < getattr(self, name) <= _LONGEST:
                raise InputError(
                    f"{name} {getattr(self, name)!r} must be greater than zero, and at most {_LONGEST}",
                    remedy="Correct it, or leave it out.",
                )
        if self.max_time_s < self.min_time_s:
            raise InputError(
                f"max_time_s {self.max_time_s!r} is less than min_time_s {self.min_time_s!r}",
                remedy="Give a longer one, or a shorter minimum.",
            )
        if self.threads is not None and not 1 <= self.threads <= MOST_THREADS:
            raise InputError(
                f"threads {self.threads!r} must be at least 1, and at most {MOST_THREADS}", remedy="Give at most the device's cores."
            )
        if self.stop_at is not None and not self.stop_at > 0:
            raise InputError(f"stop_at {self.stop_at!r} must be above 0", remedy="Give a ratio such as 0.5, or leave it out.")
        if self.only_round is not None and self.only_round < 0:
            raise InputError(f"only_round {self.only_round!r} must not be negative", remedy="Rounds are counted from 0.")
        if self.limit_c is not None and not 0 < self.limit_c <= _HOTTEST:
            raise InputError(
                f"the temperature limit {self.limit_c!r} must be above 0 and at most {_HOTTEST} degrees Celsius",
                remedy="Write one such as 70.",
            )
        ranges = [
            tuple(map(int, part.split("-"))) for part in self.affinity.split(",") if "-" in part and _AFFINITY.fullmatch(self.affinity)
        ]
        if not _AFFINITY.fullmatch(self.affinity) or any(first > last for first, last in ranges):
            raise InputError(f"affinity {self.affinity!r} names no processors", remedy="Use all, big, little, or a list such as 0,2-3.")

    def request(self, cores: int) -> JsonObject:
        """The runner's options, with the number of threads settled."""
        options = asdict(self) | {"threads": self.threads or min(4, cores), "accelerator": self.accelerator or CPU}
        del options["table_rounds"]
        return options


@dataclass(frozen=True)
class Measurement:
    """One model on one device.

    ``latency_ms``: median of ``samples_ns``, the raw samples (of very many, evenly chosen ones); ``low_ms``..``high_ms``: its 95 %
    interval; ``drift``: how far it moved meanwhile, as a share; ``outliers``: the share of runs that were stalls. ``load_ms``,
    ``first_ms``: loading, and the first inference; ``cold_ms``: both, and ``import_ms`` to import the runtime. ``warmup_s``,
    ``sampled_s``: how long it ran before, and for, the samples. ``peak_bytes``: the model's share of the process's peak: its private
    memory, and its file where that is mapped; ``rss_peak_bytes``: all of it; ``weights_bytes``, ``arena_bytes``: constants, and planned
    activations, if reported. ``energy_mj``: of one inference above idle with its 95 % interval, None without a meter;
    ``energy_error``: why a meter gave none. ``operators``: their
    names, types and ``ms``, if requested and reported. ``device``: identity of the device; ``cpus``: the processors used, empty for all.
    ``before``, ``after``: load, clocks, governor, temperatures. ``discarded``: windows that did not count;
    ``throttled``: why, by cause; ``cooldown_s``: waited for the device to recover; ``unreliable``: it did not, and was measured all the
    same. ``tuned``: what held the clocks. ``file_bytes``, ``file_sha256``: the model's file as it was sent. ``windows``: how many of the
    samples each window has.
    ``others``: what other programs took meanwhile, as a share of the time of all processors; None where the kernel does not report it.
    ``accelerator``: what ran it; ``delegated``: the share of the operators that it took, None where the runtime does not report it;
    ``on_cpu``: the kinds of those that the processor ran instead.
    """

    name: str
    latency_ms: float
    low_ms: float
    high_ms: float
    p90_ms: float
    p99_ms: float
    samples_ns: tuple[int, ...]
    peak_bytes: int
    rss_peak_bytes: int
    load_ms: float
    first_ms: float
    file_bytes: int
    energy_mj: float | None
    energy_method: str | None
    runtime: str
    runtime_version: str
    threads: int
    device: str
    stop_reason: str
    stable: bool
    before: Conditions = field(default_factory=Conditions)
    after: Conditions = field(default_factory=Conditions)
    warnings: tuple[str, ...] = ()
    drift: float = 0.0
    outliers: float = 0.0
    import_ms: float | None = None
    cold_ms: float | None = None
    warmup_s: float | None = None
    sampled_s: float | None = None
    weights_bytes: int | None = None
    arena_bytes: int | None = None
    energy_low_mj: float | None = None
    energy_high_mj: float | None = None
    operators: tuple[dict[str, Any], ...] | None = None
    cpus: tuple[int, ...] = ()
    discarded: int = 0
    cooldown_s: float = 0.0
    throttled: tuple[str, ...] = ()
    unreliable: bool = False
    file_sha256: str | None = None
    tuned: tuple[str, ...] = ()
    windows: tuple[int, ...] = ()
    others: float | None = None
    energy_error: str | None = None
    accelerator: str = CPU
    delegated: float | None = None
    on_cpu: tuple[str, ...] = ()

    def together(self, more: Measurement) -> Measurement:
        """Of two sessions of one file: median, interval and tail of all samples; all else as in the second."""
        samples, windows = self.samples_ns + more.samples_ns, self.windows + more.windows
        others = [one for one in (self.others, more.others) if one is not None]
        times: dict[str, Any] = latencies_ms(samples, windows)
        return replace(
            more,
            **times,
            samples_ns=samples,
            windows=windows,
            stable=self.stable and more.stable,
            unreliable=self.unreliable or more.unreliable,
            others=max(others, default=None),
            warnings=tuple(dict.fromkeys(self.warnings + more.warnings)),
        )

    def to_json(self) -> JsonObject:
        """As plain JSON values."""
        found = asdict(self)
        if self.accelerator == CPU:
            del found["accelerator"], found["delegated"], found["on_cpu"]
        return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}

    @classmethod
    def from_json(cls, value: object) -> Measurement:
        """From what :meth:`to_json` made; fields that are not known are left out.

        Raises :class:`InputError` when fields are missing or of another type, or when it cannot be true.
        """
        try:
            found = convert(with_current_names(value), cls)
            check(found)
        except ValueError as error:
            raise InputError(f"this is not a measurement: {error}") from error
        return found

    @classmethod
    def from_answer(
        cls,
        answer: JsonObject,
        file: tuple[int, str],
        identity: str,
        target: str,
        tuned: tuple[str, ...] = (),
        disturber: str = "",
    ) -> Measurement:
        """From one model of the runner's answer.  ``file``: size and SHA-256 of what was sent; ``identity``: of the device;
        ``disturber``: the program there that took most of the processors' time meanwhile, if known.

        Raises :class:`RunnerError` naming ``target`` when anything of it is missing, of another type or cannot be true.
        """
        what = f"the measurement of {answer['name']}"
        found = decoded(answer, ModelAnswer, target, what)
        same = {item.name: getattr(found, item.name) for item in fields(cls) if hasattr(found, item.name)}
        times = {f"{key}_ms": getattr(found, f"{key}_ns") / 1e6 for key in ("low", "high", "p90", "p99")}
        operators = None if found.operators is None else tuple(map(asdict, found.operators))
        warnings = tuple(advice(found, tuned, disturber))
        known = {
            "file_bytes": file[0],
            "file_sha256": file[1],
            "device": identity,
            "operators": operators,
            "tuned": tuned,
            "warnings": warnings,
        }
        item = cls(**same | times | known | {"latency_ms": found.median_ns / 1e6})
        try:
            if not item.samples_ns or not item.windows:
                raise ValueError("it has no samples")
            check(item)
        except ValueError as error:
            raise RunnerError(f"{what} of {target} is invalid: {error}", remedy=REMEDY) from error
        return item


@dataclass(frozen=True)
class Ratio:
    """A candidate's latency over the baseline's (0.5: twice as fast), with its 99 % interval.

    ``log_ratios``: the logarithms of the rounds' ratios that it is made of, where it was measured in turns.
    """

    name: str
    ratio: float
    low: float
    high: float
    verdict: Verdict
    log_ratios: tuple[float, ...] = ()

    @classmethod
    def judge(cls, name: str, ratio: float, low: float, high: float) -> Ratio:
        """``inconclusive`` when the interval is too wide, ``same`` when it holds 1."""
        verdict: Verdict
        if not high - low <= INCONCLUSIVE_WIDTH * ratio:
            verdict = "inconclusive"
        elif high < 1:
            verdict = "faster"
        else:
            verdict = "slower" if low > 1 else "same"
        return cls(name, ratio, low, high, verdict)

    @classmethod
    def of_rounds(cls, name: str, log_ratios: Sequence[float]) -> Ratio:
        """What the rounds of one session make, or of several together."""
        return replace(cls.judge(name, *trimmed_interval(log_ratios)), log_ratios=tuple(log_ratios))


@dataclass(frozen=True)
class Comparison:
    """The baseline's measurement, then the candidates', and a ratio for each candidate."""

    measurements: tuple[Measurement, ...]
    ratios: tuple[Ratio, ...]

    def to_json(self) -> JsonObject:
        """As plain JSON values."""
        return {"measurements": [item.to_json() for item in self.measurements], "ratios": [asdict(ratio) for ratio in self.ratios]}


@dataclass(frozen=True)
class KernelTime:
    """One small model of a table: median and least of its window medians, and their spread as a share of the median.

    ``error`` says why there is no time (all are NaN then): the model was refused or killed its process.
    """

    median_ns: float
    min_ns: float
    spread: float
    error: str | None = None


def differences(a: Measurement, b: Measurement) -> dict[str, tuple[object, object]]:
    """What keeps two measurements from being compared, by name: device, accelerator, runtime, version, threads, processors, clocks."""
    pairs = {
        "devices": (a.device, b.device),
        "accelerators": (a.accelerator, b.accelerator),
        "runtimes": (f"{a.runtime} {a.runtime_version}", f"{b.runtime} {b.runtime_version}"),
        "thread counts": (a.threads, b.threads),
        "clock governors": (a.before.get("governor"), b.before.get("governor")),
        "processors": (a.cpus, b.cpus),
        "clock limits": (a.before.get("limit_mhz"), b.before.get("limit_mhz")),
    }
    return {what: pair for what, pair in pairs.items() if pair[0] != pair[1]}


def comparable(a: Measurement, b: Measurement) -> None:
    """Raise :class:`IncomparableError` naming all of their :func:`differences`, when there are any."""
    if found := differences(a, b):
        listed = "; ".join(f"{what}: {one} and {other}" for what, (one, other) in found.items())
        raise IncomparableError(f"{a.name} and {b.name} were measured with different {listed}", remedy="Measure both in one session.")


def check_names(artifacts: Sequence[Artifact]) -> None:
    """Raise :class:`InputError` when two artifacts share a name."""
    names = [artifact.name for artifact in artifacts]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"two models are named {twice[0]!r}", remedy="Give each a name of its own.")
