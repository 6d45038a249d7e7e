"""Which multiples of channels pay on an accelerator: found by measuring one kernel at neighbouring widths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from edgeprune.cost.kernels import KernelSpec
from edgeprune.cost.table import Point, point_key

_SPEC: Final = KernelSpec("conv2d", (16, 16), (16, 16), (3, 3), padded=True)
_IN, _WIDTHS = 32, range(17, 65)
STEPS: Final = (1, 2, 4, 8, 16, 32)
"""The steps that are compared: kernels work on slices of 4, vectors of 8, tiles of 16 or 32 channels."""

STAIRS: Final = 0.6
"""A staircase's median error has to be at most this share of a straight line's; what is less clear is no staircase."""

_ROUNDS, _LEAST = 30, 1e-9

POINTS: Final[tuple[Point, ...]] = tuple((_SPEC, _IN, width) for width in _WIDTHS)


def channel_step(times: Mapping[str, float]) -> int:
    """The step in channels that kernel times (milliseconds by :func:`point_key`, of all :data:`POINTS`) go up by; 1 where they rise evenly.

    Of each step the median error of ``a + b * (width rounded up to it)`` is compared, fitted by least absolute deviations: some of the
    times are far too long where something else ran meanwhile.
    """
    widths = np.array(_WIDTHS, dtype=float)
    measured = np.array([times[point_key(point)] for point in POINTS])
    errors = {step: _median_error(np.ceil(widths / step) * step, measured) for step in STEPS}
    best = min(STEPS, key=lambda step: errors[step])
    return best if errors[best] <= STAIRS * errors[1] else 1


def _median_error(rounded: np.ndarray, measured: np.ndarray) -> float:
    """By iteratively reweighted least squares."""
    design = np.stack([np.ones_like(rounded), rounded], axis=1)
    weights = np.ones_like(measured)
    errors = measured
    for _ in range(_ROUNDS):
        roots = np.sqrt(weights)
        solution = np.linalg.lstsq(design * roots[:, None], measured * roots, rcond=None)[0]
        errors = np.abs(design @ solution - measured)
        weights = 1 / np.maximum(errors, _LEAST)
    return float(np.median(errors))
