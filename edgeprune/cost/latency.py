"""Predicted latency: a sum over kernels, corrected by whole-model measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from scipy.optimize import nnls

from edgeprune.cost.kernels import Kernel, KernelSpec
from edgeprune.cost.table import Grid, Table, grid_of
from edgeprune.cost.width import Widths, alive


class KernelTimes(Protocol):
    """Where kernel times come from: a device table or a profile's prior."""

    measured: bool

    @property
    def call_ms(self) -> float:
        """Milliseconds of one call of the runtime, whatever it computes."""
        ...

    def milliseconds(self, kernel: Kernel, in_width: float, out_width: float) -> float:
        """Time of ``kernel`` at those widths, in milliseconds."""
        ...


@dataclass
class TableTimes:
    """Times interpolated linearly between the measured widths of a device table."""

    table: Table
    choices: Mapping[str, list[int]]
    measured: bool = True
    _surfaces: dict[Grid, np.ndarray] = field(default_factory=dict)
    _grids: dict[tuple[KernelSpec, object, object], Grid] = field(default_factory=dict)

    @property
    def call_ms(self) -> float:
        """Milliseconds of one call of the runtime, whatever it computes."""
        return self.table.call_ms

    def milliseconds(self, kernel: Kernel, in_width: float, out_width: float) -> float:
        """Bilinear between grid points; the nearest edge outside them."""
        key = (kernel.spec, kernel.in_width, kernel.out_width)
        if key not in self._grids:
            self._grids[key] = grid_of(kernel, self.choices, self.table.launches)
        grid = self._grids[key]
        if grid not in self._surfaces:
            self._surfaces[grid] = self.table.surface(grid)
        surface = self._surfaces[grid]
        rows = [float(np.interp(out_width, grid.out_widths, row)) for row in surface]
        return rows[0] if len(rows) == 1 else float(np.interp(in_width, grid.in_widths, rows))


@dataclass
class LatencyModel:
    """``overhead_ms + sum of scale[kind] * kernel``.  Before any whole-model measurement: the overhead of one call, all scales 1."""

    kernels: Sequence[Kernel]
    times: KernelTimes
    overhead_ms: float = 0.0
    scale: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.overhead_ms = self.overhead_ms or self.times.call_ms

    def kernel_ms(self, kernel: Kernel, in_width: float, out_width: float) -> float:
        """A kernel's corrected time at those widths."""
        return self.scale.get(kernel.spec.kind, 1.0) * self.times.milliseconds(kernel, in_width, out_width)

    def predict(self, widths: Widths) -> float:
        """Milliseconds of the whole model."""
        return self.overhead_ms + sum(self.kernel_ms(*kernel) for kernel in alive(self.kernels, widths))

    def by_kind(self, widths: Widths) -> dict[str, float]:
        """Uncorrected milliseconds summed by kernel kind."""
        sums: dict[str, float] = {}
        for kernel, in_width, out_width in alive(self.kernels, widths):
            sums[kernel.spec.kind] = sums.get(kernel.spec.kind, 0.0) + self.times.milliseconds(kernel, in_width, out_width)
        return sums

    def calibrate(self, observed: Sequence[tuple[Widths, float]]) -> None:
        """Fit overhead and scales to (widths, measured ms) pairs: non-negative least squares of relative errors, ridge towards
        the overhead of one call and one common scale.

        The newest measurement, nearest to where the search goes, weighs most.
        """
        sums = [self.by_kind(widths) for widths, _ in observed]
        kinds = sorted({kind for item in sums for kind in item})
        table = np.array([[item.get(kind, 0.0) for kind in kinds] for item in sums])
        measured = np.array([value for _, value in observed])
        call = min(self.times.call_ms, 0.5 * float(measured.min()))
        common = float(np.median((measured - call) / table.sum(1)))
        weights = 1.0 / measured * np.linspace(0.5, 1.0, len(measured))
        design = np.hstack([np.ones((len(measured), 1)), table]) * weights[:, None]
        share = table[0] / table[0].sum()
        ridge = np.diag(np.concatenate([[0.05 / measured[0]], 0.05 * np.sqrt(share) + 1e-3]))
        prior = ridge @ np.concatenate([[call], np.full(len(kinds), common)])
        solution, _ = nnls(np.vstack([design, ridge]), np.concatenate([measured * weights, prior]))
        self.overhead_ms, self.scale = float(solution[0]), dict(zip(kinds, solution[1:].tolist(), strict=True))
