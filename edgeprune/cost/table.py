"""The device table: measured times of single kernels, on a grid of widths, kept for later models."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgeprune.cost.kernels import CONTRACTIONS, Kernel, KernelSpec
from edgeprune.decode import convert
from edgeprune.files import locked, parse_json, write_atomically

_LOG = logging.getLogger(__name__)

IN_LEVELS, OUT_LEVELS = 3, 8
"""How many input and output widths of a kernel are measured: time is near linear in the input width and a staircase in the output's."""

FINE_IN_LEVELS = 6
"""On an accelerator time is no line in the input width either: weights that leave a cache, or another kernel of the driver, are a cliff."""

Point = tuple[KernelSpec, int, int]
"""A kernel's spec, input width, output width."""

LEAST = 0.05
"""The share of a single kernel's time that is its own at the least, however short it is beside the call."""

CALL: Point = (KernelSpec("add", (1, 1), (1, 1)), 1, 1)
"""The least a file can do: its time is that of a call of the runtime, which every single kernel's file pays and a model pays once."""


LAUNCHES: Point = (KernelSpec("launches", (1, 1), (1, 1)), 1, 16)
"""As many of the least kernels one after another, which nothing fuses: beside :data:`CALL`, what starting one on an accelerator takes."""


def point_key(point: Point) -> str:
    """The point as text: the key of files and measurements."""
    spec, in_width, out_width = point
    return f"{spec.text}-{in_width}-{out_width}"


@dataclass(frozen=True)
class Grid:
    """The widths one kernel is measured at."""

    spec: KernelSpec
    in_widths: tuple[int, ...]
    out_widths: tuple[int, ...]

    def points(self) -> list[Point]:
        """All of them; kernels without weights have one width only."""
        if self.spec.kind in CONTRACTIONS:
            return [(self.spec, in_width, out_width) for in_width in self.in_widths for out_width in self.out_widths]
        return [(self.spec, out_width, out_width) for out_width in self.out_widths]


@dataclass
class Table:
    """Milliseconds by point. ``path``: where it is kept between runs. ``launches``: whether starting a kernel is a cost of its own, as on
    accelerators; on a processor it is part of the call."""

    path: Path | None = None
    times: dict[str, float] = field(default_factory=dict)
    launches: bool = False

    @classmethod
    def open(cls, path: Path) -> Table:
        """The table at ``path``, empty when there is none or it cannot be read (it is only a cache)."""
        return cls(path, _read(path))

    def add(self, times: Mapping[str, float]) -> None:
        """Take in new measurements (milliseconds) and keep them on disk, beside what other processes have measured meanwhile."""
        self.times.update(times)
        if self.path is None:
            return
        try:
            with locked(self.path):
                self.times = _read(self.path) | self.times
                write_atomically(self.path, json.dumps({"version": 1, "ms": dict(sorted(self.times.items()))}, indent=0))
        except OSError as error:
            _LOG.warning("the device table %s cannot be kept: %s", self.path, error.strerror or error)

    def missing(self, grids: Iterable[Grid]) -> list[Point]:
        """The points not measured yet, each once; :data:`CALL` among them, and :data:`LAUNCHES` where these count."""
        always = (CALL, LAUNCHES) if self.launches else (CALL,)
        wanted = {point_key(point): point for point in (*always, *(point for grid in grids for point in grid.points()))}
        return [point for key, point in wanted.items() if key not in self.times]

    @property
    def call_ms(self) -> float:
        """Milliseconds of one call of the runtime, whatever it computes; without starting a kernel, where that is a cost of its own."""
        return self.times[point_key(CALL)] - self.launch_ms

    @property
    def launch_ms(self) -> float:
        """Milliseconds that starting one kernel takes, whatever it computes; 0 on a processor."""
        if not self.launches:
            return 0.0
        one, many = self.times[point_key(CALL)], self.times[point_key(LAUNCHES)]
        return min(max((many - one) / (LAUNCHES[2] - 1), 0.0), one)

    def surface(self, grid: Grid) -> np.ndarray:
        """(sources, results) milliseconds on the grid, without the call, with its launch; (1, results) for kernels of one width."""
        values = np.array([self.times[point_key(point)] for point in grid.points()])
        rows = len(grid.in_widths) if grid.spec.kind in CONTRACTIONS else 1
        return np.maximum(values - self.call_ms, LEAST * values).reshape(rows, len(grid.out_widths))


@dataclass(frozen=True)
class _Kept:
    """What a file holds: milliseconds by :func:`point_key`, of which some may be damaged."""

    ms: dict[str, object]


def _read(path: Path) -> dict[str, float]:
    """What is kept at ``path``: entries that cannot be used are left out, to be measured again."""
    try:
        found = convert(parse_json(path.read_bytes()), _Kept, finite=False).ms
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        _LOG.warning("the device table %s cannot be read, and is measured again: %s", path, error)
        return {}
    times = {key: time for key, value in found.items() if (time := _time(value)) is not None}
    if len(times) < len(found):
        _LOG.warning("the device table %s has %d entries that are not times: they are measured again", path, len(found) - len(times))
    return times


def _time(value: object) -> float | None:
    """Milliseconds; None for what is not a time."""
    try:
        found = convert(value, float)
    except ValueError:
        return None
    return found if found > 0 else None


def grid_of(kernel: Kernel, choices: Mapping[str, list[int]], accelerated: bool = False) -> Grid:
    """The grid that covers every width ``kernel`` can have, given the widths each group may take; finer for an accelerator."""
    quantum = kernel.spec.groups
    return Grid(
        kernel.spec,
        _levels(
            _possible(kernel.in_width.constant, kernel.in_width.terms, choices),
            FINE_IN_LEVELS if accelerated else IN_LEVELS,
            quantum,
        ),
        _levels(_possible(kernel.out_width.constant, kernel.out_width.terms, choices), OUT_LEVELS, quantum),
    )


def _possible(constant: float, terms: tuple[tuple[str, float], ...], choices: Mapping[str, list[int]]) -> list[float]:
    """The widths to choose levels from: exact for one group, the range's ends and middle steps for several."""
    if not terms:
        return [constant]
    if len(terms) == 1:
        group, factor = terms[0]
        return [constant + factor * width for width in choices[group] if width > 0]  # 0: the kernel goes with its block
    low = constant + sum(factor * min(choices[group]) for group, factor in terms)
    high = constant + sum(factor * max(choices[group]) for group, factor in terms)
    step = min(
        factor * (sorted(choices[group])[1] - sorted(choices[group])[0]) if len(choices[group]) > 1 else high for group, factor in terms
    )
    count = max(int((high - low) / step), 1)
    return [high - index * (high - low) / count for index in range(count, -1, -1)]


def _levels(values: list[float], most: int, quantum: int) -> tuple[int, ...]:
    """At most ``most`` of the values, evenly chosen, the ends among them; multiples of ``quantum``."""
    whole = sorted({max(quantum, round(value / quantum) * quantum) for value in values})
    if len(whole) <= most:
        return tuple(whole)
    places = np.linspace(0, len(whole) - 1, most).round().astype(int)
    return tuple(whole[place] for place in sorted(set(places.tolist())))
