"""Latency under load for minutes: its curve with temperature and clock, and whether the first minute's ranking is the last one's."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from edgeprune.bench.answers import REMEDY, decoded
from edgeprune.bench.content import require_content
from edgeprune.bench.device import open_device
from edgeprune.bench.results import Artifact, BenchOptions
from edgeprune.decode import JsonObject
from edgeprune.devices.events import OnEvent
from edgeprune.errors import BudgetError, InputError, RunnerError

MINUTE_S = 60.0
SHORTEST_S, LONGEST_S = 5.0, 6 * 3600.0
NOTICED = 0.05
"""A latency that changed by less than this share is called steady, as a measurement's drift is."""

_UNITS = {"s": 1.0, "min": MINUTE_S, "h": 3600.0}

Change = Literal["steady", "slower", "faster"]


def parse_duration(text: str) -> float:
    """``10min`` (or ``90s``, ``1h``) in seconds.  Raises :class:`BudgetError` for what is no duration of 5 s to 6 h."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|h)", text.strip())
    seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if not SHORTEST_S <= seconds <= LONGEST_S:
        raise BudgetError(f"{text!r} is not a duration from 5s to 6h", remedy="Write one such as 10min, 90s or 1h.")
    return seconds


@dataclass(frozen=True)
class Point:
    """A window of one model, which ended at ``time_s``.  Times of an inference in ns."""

    time_s: float
    median_ns: float
    p90_ns: float
    samples: int


@dataclass(frozen=True)
class State:
    """What a device told of itself at ``time_s``: clocks in MHz, temperatures in Celsius, what had throttled it since the start."""

    time_s: float
    clocks_mhz: tuple[float, ...] = ()
    limit_mhz: float | None = None
    temperatures_c: dict[str, float] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()

    @property
    def hottest_c(self) -> float | None:
        """The highest of the temperatures."""
        return max(self.temperatures_c.values(), default=None)

    @property
    def clock_mhz(self) -> float | None:
        """The clock of the fastest processor, else the limit that it is held at."""
        return max(self.clocks_mhz, default=self.limit_mhz)


@dataclass(frozen=True)
class Curve:
    """A model's windows."""

    name: str
    runtime: str
    version: str
    points: tuple[Point, ...]

    def latency_ms(self, first_s: float, last_s: float) -> float:
        """The median of the windows that ended between these times."""
        return statistics.median(point.median_ns for point in self.points if first_s <= point.time_s <= last_s) / 1e6


@dataclass(frozen=True)
class Sustained:
    """What :func:`sustained` found.  ``window_s``: how long the first and the last part are that are compared: a minute, or a fifth of a
    shorter load."""

    target: str
    identity: str
    threads: int
    duration_s: float
    curves: tuple[Curve, ...]
    states: tuple[State, ...]

    @property
    def window_s(self) -> float:
        """The length of the parts that are compared, in seconds."""
        return min(MINUTE_S, self.duration_s / 5)

    @property
    def throttled(self) -> tuple[str, ...]:
        """What throttled the device meanwhile, in the order that it came."""
        return tuple(dict.fromkeys(reason for state in self.states for reason in state.reasons))

    def first_ms(self, curve: Curve) -> float:
        """A model's latency in the first part; that of its first window where no other ended in it."""
        return curve.latency_ms(0.0, max(self.window_s, curve.points[0].time_s))

    def last_ms(self, curve: Curve) -> float:
        """A model's latency in the last part."""
        end = curve.points[-1].time_s
        return curve.latency_ms(end - self.window_s, end)

    def change(self, curve: Curve) -> Change:
        """What became of a model's latency."""
        ratio = self.last_ms(curve) / self.first_ms(curve)
        return "steady" if abs(ratio - 1) <= NOTICED else "slower" if ratio > 1 else "faster"

    def ranking(self, part: Literal["first", "last"]) -> list[str]:
        """The models' names, the fastest first."""
        latency = self.first_ms if part == "first" else self.last_ms
        return [curve.name for curve in sorted(self.curves, key=latency)]

    def to_json(self) -> JsonObject:
        """As plain JSON values."""
        models = [
            {
                "name": curve.name,
                "runtime": curve.runtime,
                "runtime_version": curve.version,
                "first_ms": self.first_ms(curve),
                "last_ms": self.last_ms(curve),
                "ratio": self.last_ms(curve) / self.first_ms(curve),
                "change": self.change(curve),
                "points": [asdict(point) for point in curve.points],
            }
            for curve in self.curves
        ]
        states = [asdict(state) | {"hottest_c": state.hottest_c, "clock_mhz": state.clock_mhz} for state in self.states]
        return {
            "target": self.target,
            "device": self.identity,
            "threads": self.threads,
            "duration_s": self.duration_s,
            "window_s": self.window_s,
            "models": models,
            "states": states,
            "throttled": list(self.throttled),
            "ranking_first": self.ranking("first"),
            "ranking_last": self.ranking("last"),
            "ranking_kept": self.ranking("first") == self.ranking("last"),
        }


def of_answer(answer: JsonObject, names: Sequence[str], target: str, identity: str, duration_s: float) -> Sustained:
    """What a runner's answer says, checked.  Raises :class:`RunnerError` naming the device when it does not hold together."""
    curves = decoded(answer.get("models"), tuple[Curve, ...], target, "the answer")
    states = decoded(answer.get("states"), tuple[State, ...], target, "the answer")
    threads = decoded(answer.get("threads"), int, target, "the answer")
    if [curve.name for curve in curves] != list(names):
        raise RunnerError(f"{target} answered for other models than {', '.join(names)}", remedy=REMEDY)
    for curve in curves:
        times = [point.time_s for point in curve.points]
        positive = all(0 < point.median_ns <= point.p90_ns and point.samples > 0 for point in curve.points)
        if not times or times != sorted(times) or times[0] < 0 or not positive:
            raise RunnerError(f"the times of {curve.name} on {target} are invalid: not positive, or not in order", remedy=REMEDY)
    return Sustained(target, identity, threads, duration_s, curves, states)


def sustained(
    models: Sequence[str | Path | Artifact],
    duration_s: float,
    target: str = "local:",
    options: BenchOptions | None = None,
    on_event: OnEvent | None = None,
) -> Sustained:
    """Run ``models`` in turns for ``duration_s`` without a pause, and tell their latencies over time, with temperatures and clocks.

    Raises what :func:`edgeprune.bench.open_device` and :meth:`Device.measure` raise.
    """
    artifacts = [item if isinstance(item, Artifact) else Artifact(Path(item)) for item in models]
    if len({item.name for item in artifacts}) < len(artifacts):
        artifacts = [Artifact(item.path, str(item.path), item.inputs, item.engine_name) for item in artifacts]
    if not artifacts or len({item.name for item in artifacts}) < len(artifacts):
        raise InputError("the models of a sustained load have to differ", remedy="Name each file once.")
    for artifact in artifacts:
        require_content(artifact.path, artifact.engine)
    options = options or BenchOptions()
    engines = tuple(dict.fromkeys(artifact.engine for artifact in artifacts))
    with open_device(target, engine=engines, on_event=on_event, native=options.native, accelerator=options.accelerator) as device:
        answer = device.sustain(artifacts, duration_s, options)
        return of_answer(answer, [item.name for item in artifacts], device.target.name, device.info.identity, duration_s)
