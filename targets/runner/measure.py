"""One model measured: warm-up until stable, then windows until the median is known well enough."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional

from . import stats
from .energy import measure_energy
from .parent import Child
from .probes import conditions

Emit = Callable[..., None]
_MIN_BLOCKS = 10
_WARM_BLOCK_NS = 50_000_000
_WARM_CHANGE = 0.03


@dataclass
class Options:
    """How to measure.  ``relative_width``: the 95 % interval of the median, as a share of it, that ends the sampling."""

    threads: int = 1
    seed: int = 0
    min_time_s: float = 1.0
    max_time_s: float = 10.0
    relative_width: float = 0.02
    warmup_s: float = 3.0
    step_timeout_s: float = 300.0
    energy: bool = True
    rounds: int = 6
    window_ms: float = 15.0
    window_runs: int = 20
    window_cap_ms: float = 150.0


class Subject:
    """A model loaded in a child of its own.  Raises what :meth:`Child.call` raises."""

    def __init__(self, model: Dict[str, Any], options: Options) -> None:
        self.name = model["name"]
        self.child = Child(options.step_timeout_s)
        try:
            self.loaded = self.child.call(
                *("load",),
                **{key: model[key] for key in ("engine", "path", "specs", "arrays") if key in model},
                **{"key": self.name, "threads": options.threads, "seed": options.seed},
            )
        except BaseException:
            self.child.close()
            raise

    def block(self, time_ns: int, skip: int = 0) -> List[int]:
        """Samples in ns of one window of at least ``time_ns``."""
        samples: List[int] = self.child.call("run", key=self.name, time_ns=time_ns, skip=skip)["samples"]
        return samples

    def warm_up(self, limit_s: float) -> None:
        """Run until two neighbouring windows agree, at most ``limit_s``."""
        end = time.monotonic() + limit_s
        previous = stats.median(self.block(_WARM_BLOCK_NS))
        while time.monotonic() < end:
            current = stats.median(self.block(_WARM_BLOCK_NS))
            if abs(current - previous) <= _WARM_CHANGE * previous:
                return
            previous = current

    def facts(self) -> Dict[str, Any]:
        """What loading told, and memory so far: take it before sampling, since samples themselves take memory."""
        memory = self.child.call("memory")
        return {
            "runtime": self.loaded["runtime"],
            "runtime_version": self.loaded["version"],
            "inputs": self.loaded["specs"],
            "load_ms": self.loaded["load_ns"] / 1e6,
            "first_ms": self.loaded["first_ns"] / 1e6,
            "peak_bytes": memory["model_bytes"],
            "rss_peak_bytes": memory["peak_bytes"],
        }


def sample(subject: Subject, options: Options) -> Dict[str, Any]:
    """Windows until both the least time and the width are reached, or the most time."""
    block_ns = int(options.min_time_s * 1e9 / _MIN_BLOCKS)
    blocks: List[List[int]] = []
    begin = time.monotonic()
    while True:
        blocks.append(subject.block(block_ns))
        elapsed = time.monotonic() - begin
        if elapsed < options.min_time_s and elapsed < options.max_time_s:
            continue
        middles = [stats.median(block) for block in blocks]
        low, high = stats.median_interval(middles)
        precise = len(blocks) >= 6 and stats.relative_width(low, high, stats.median(middles)) <= options.relative_width
        if precise or elapsed >= options.max_time_s:
            break
    samples = [value for block in blocks for value in block]
    return dict(stats.summary(samples, blocks), stable=precise, stop_reason="precise" if precise else "time limit")


def measure(model: Dict[str, Any], options: Options, emit: Optional[Emit] = None) -> Dict[str, Any]:
    """Everything about one model; :class:`RunnerError` when its process fails."""
    before = conditions()
    subject = Subject(model, options)
    try:
        result = dict(subject.facts(), energy_mj=None, energy_method=None)
        subject.warm_up(options.warmup_s)
        result.update(sample(subject, options))
        if options.energy:
            result.update(measure_energy(lambda time_ns: subject.block(time_ns), options.min_time_s))
    finally:
        subject.child.close()
    result.update(name=model["name"], threads=options.threads, before=before, after=conditions())
    if emit:
        emit("measured", name=model["name"], median_ms=result["median_ns"] / 1e6, stable=result["stable"])
    return result
