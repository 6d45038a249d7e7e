"""One model measured: warm-up until stable, then windows until the median is known well enough."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Optional

from . import affinity, stats
from .accelerators import CPU
from .energy import measure_energy
from .others import Others
from .parent import Child
from .protocol import RunnerError
from .throttle_guard import ThrottleGuard

Emit = Callable[..., None]
_MIN_BLOCKS = 10
_LEAST_BLOCKS = 6  # fewer have no 95 % interval of their median
_WARM_BLOCK_NS = 30_000_000
_WARM_BLOCKS = 3
_WARM_CHANGE = 0.03
_STEADY_DRIFT = 0.05


@dataclass
class Options:
    """How to measure.

    ``relative_width``: the interval, as a share of its middle, that ends the sampling.  ``affinity``: all, big, little, or a list of
    processors.  ``tune``: hold the clocks still.  ``limit_c``: a temperature above which nothing is measured, ``cooldown_s``: the most that
    is waited for the device to recover.  ``meter``: which energy meter, the first that works unless given.  ``profile``: time of each
    operator.  ``native``: path of the binary of the engine ``native``.  ``accelerator``: what runs the model, see :mod:`.accelerators`;
    ``require_delegated``: the least share of the operators that it has to take.  ``own``: processes here that belong to whoever
    measures, and do not count as other programs.  ``stop_at``: a comparison may end when its ratio is known to be on one side of this one.
    ``only_round``: a comparison is this one of its ``rounds``, counted from 0; the others are measured elsewhere.
    """

    threads: int = 1
    seed: int = 0
    min_time_s: float = 1.0
    max_time_s: float = 10.0
    relative_width: float = 0.02
    warmup_s: float = 3.0
    step_timeout_s: float = 300.0
    energy: bool = True
    rounds: int = 8
    window_ms: float = 15.0
    window_runs: int = 20
    window_cap_ms: float = 150.0
    affinity: str = "all"
    tune: bool = False
    limit_c: Optional[float] = None
    cooldown_s: float = 60.0
    meter: Optional[str] = None
    profile: bool = False
    native: Optional[str] = None
    accelerator: str = CPU
    require_delegated: Optional[float] = None
    own: List[int] = field(default_factory=list)
    stop_at: Optional[float] = None
    only_round: Optional[int] = None

    def guard(self, emit: Optional[Emit] = None) -> ThrottleGuard:
        """The guard that these options describe."""
        return ThrottleGuard(self.limit_c, self.cooldown_s, emit=emit)


class ChildPrefetcher:
    """Starts the processes of models that are measured one after another: the next one's interpreter while the present one warms up."""

    def __init__(self, options: Options, count: int) -> None:
        self._options, self._left = options, count
        self._next: Optional[Child] = None

    def _start(self) -> Child:
        return Child(self._options.step_timeout_s, affinity.choose(self._options.affinity))

    def take(self) -> Child:
        """A child; it is the taker's to close."""
        self._left -= 1
        child, self._next = self._next, None
        return child or self._start()

    def ahead(self, work: Callable[[], None]) -> None:
        """Do some work, and start the next child meanwhile where one will be needed; both are done afterwards."""
        if self._left > 0 and self._next is None:
            self._next = self._start()
        work()
        try:
            if self._next is not None:
                self._next.wait_until_ready()
        except RunnerError:
            self.close()

    def close(self) -> None:
        """End the child that nobody took."""
        child, self._next = self._next, None
        if child is not None:
            child.close()


class LoadedModel:
    """A model loaded in a child of its own, from the storage where ``cold``.  Raises what :meth:`Child.call` raises."""

    def __init__(self, model: Dict[str, Any], options: Options, child: Optional[Child] = None, cold: bool = False) -> None:
        self.name = model["name"]
        self.cpus = affinity.choose(options.affinity)
        self._doubt = affinity.doubt(options.affinity)
        self.warmup_s, self.settled = 0.0, False
        self.child = child or Child(options.step_timeout_s, self.cpus)
        try:
            self.loaded = self.child.call(
                *("load",),
                **{key: model[key] for key in ("engine", "path", "specs", "arrays") if key in model},
                **{"key": self.name, "threads": options.threads, "seed": options.seed, "cold": cold},
                accelerator=options.accelerator,
            )
            self._delegation = self._delegated(options)
        except BaseException:
            self.child.close()
            raise

    def _delegated(self, options: Options) -> Dict[str, Any]:
        """What the accelerator took, as an answer says it; nothing on the processor.  Raises where it is less than is required."""
        if options.accelerator == CPU:
            return {}
        found = self.loaded.get("delegation") or {"share": None, "left": []}
        share, least = found["share"], options.require_delegated
        if least is not None and (share is None or share < least):
            what = "an unknown part" if share is None else f"{share:.1%}"
            left = f"; left to the processor: {tally(found['left'])}" if found["left"] else ""
            raise RunnerError("refused", f"{options.accelerator} took {what} of the operators, and {least:.1%} is required{left}")
        return {"accelerator": options.accelerator, "delegated": share, "on_cpu": found["left"]}

    @property
    def pid(self) -> int:
        """Of its process."""
        return self.child.pid

    def block(self, time_ns: int, skip: int = 0) -> List[int]:
        """Samples in ns of one window of at least ``time_ns``."""
        samples: List[int] = self.child.call("run", key=self.name, time_ns=time_ns, skip=skip)["samples"]
        return samples

    def runs(self, time_ns: int) -> int:
        """How many inferences a window of ``time_ns`` took."""
        return int(self.child.call("run", key=self.name, time_ns=time_ns)["runs"])

    def energy(self, options: Options) -> Dict[str, Any]:
        """Energy of one inference, where it can be measured: a runtime in a process of its own would have its loading counted too."""
        return measure_energy(self.runs, options.min_time_s, options.energy and not self.loaded["own_window"], options.meter)

    def warm_up(self, limit_s: float) -> None:
        """Run until three neighbouring windows agree, at most ``limit_s``; ``settled`` says which."""
        begin = time.monotonic()
        middles: List[float] = []
        while True:
            middles.append(stats.median(self.block(_WARM_BLOCK_NS)))
            last = middles[-_WARM_BLOCKS:]
            self.settled = len(last) == _WARM_BLOCKS and max(last) - min(last) <= _WARM_CHANGE * last[0]
            self.warmup_s = time.monotonic() - begin
            if self.settled or self.warmup_s >= limit_s:
                return

    def facts(self) -> Dict[str, Any]:
        """What loading reported, and memory so far: take it before sampling, since samples themselves take memory."""
        memory = self.child.call("memory", key=self.name)
        loaded = self.loaded
        return {
            **self.child.call("sizes", key=self.name),
            "runtime": loaded["runtime"],
            "runtime_version": loaded["version"],
            "inputs": loaded["specs"],
            "import_ms": loaded["import_ns"] / 1e6,
            "load_ms": loaded["load_ns"] / 1e6,
            "first_ms": loaded["first_ns"] / 1e6,
            "cold_ms": (loaded["import_ns"] + loaded["load_ns"] + loaded["first_ns"]) / 1e6,
            "peak_bytes": memory["model_bytes"],
            "rss_peak_bytes": memory["peak_bytes"],
            "cpus": self.cpus,
            "note": "; ".join(filter(None, [loaded["note"], self._doubt])),
            **self._delegation,
        }


def tally(kinds: List[str]) -> str:
    """``2 SOFTMAX, 1 CAST``: how many there are of each kind."""
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))


def sample(loaded: LoadedModel, options: Options, guard: ThrottleGuard) -> Dict[str, Any]:
    """Windows until both the least time and the width are reached, or the most time, but six of a run at least.

    Windows that the guard rejects do not count.
    """
    block_ns = int(options.min_time_s * 1e9 / _MIN_BLOCKS)
    blocks: List[List[int]] = []
    middles: List[float] = []
    passed, sampled_s, look = 0, 0.0, 0
    precise = ready = False
    others = Others([loaded.pid, *options.own])
    while not ready:
        begin = time.monotonic()
        blocks.append(loaded.block(block_ns))
        sampled_s += time.monotonic() - begin
        middles.append(stats.median(blocks[-1]))
        over = sampled_s >= options.max_time_s and len(blocks) >= _LEAST_BLOCKS
        if sampled_s >= options.min_time_s or over:
            if over or len(blocks) >= max(look, _LEAST_BLOCKS):
                look = len(blocks) + len(blocks) // 10 + 1  # a look sorts all samples: not after each window
                precise = stats.relative_width(*stats.clustered_interval(blocks), stats.median(middles)) <= options.relative_width
            ready = precise or over
        if ready or guard.due():
            if not guard.passes(len(blocks) - passed):
                sampled_s *= passed / len(blocks)
                del blocks[passed:], middles[passed:]
                ready = False
            passed = len(blocks)
    figures = stats.summary([value for block in blocks for value in block], blocks)
    steady = abs(figures["drift"]) <= _STEADY_DRIFT
    reason = "precise" if precise else "time limit"
    return dict(figures, stable=precise and steady, stop_reason=reason, sampled_s=sampled_s, others=others.share())


def measure(model: Dict[str, Any], options: Options, emit: Emit, prefetcher: ChildPrefetcher) -> Dict[str, Any]:
    """Everything about one model; :class:`RunnerError` when its process fails."""
    guard = options.guard(emit)
    loaded = LoadedModel(model, options, prefetcher.take(), cold=True)
    try:
        result = dict(loaded.facts(), operators=None)
        prefetcher.ahead(lambda: loaded.warm_up(options.warmup_s))
        result.update(sample(loaded, options, guard), warmup_s=loaded.warmup_s, settled=loaded.settled)
        if options.profile:
            result.update(loaded.child.call("profile", key=loaded.name))
        result.update(loaded.energy(options))
    finally:
        loaded.child.close()
    result.update(guard.report(), name=model["name"], threads=options.threads)
    emit("measured", name=model["name"], median_ms=result["median_ns"] / 1e6, stable=result["stable"])
    return result
