"""The widths a group may take."""

from __future__ import annotations

import numpy as np

from edgeprune.graph import Group

MOST = 12


def width_choices(group: Group, step: int) -> list[int]:
    """At most 12 widths from small to whole: multiples of the device's step (in channels), finer where the group is small.

    Kernels work on blocks of ``step`` output channels, so widths between two multiples cost as much as the upper one.
    """
    rows, size = group.rows.shape
    unit = max(1, step // rows)
    while unit > 1 and size < 4 * unit:
        unit //= 2
    multiples = np.arange(unit, size + 1, unit)
    if len(multiples) > MOST:
        multiples = multiples[np.linspace(0, len(multiples) - 1, MOST).round().astype(int)]
    return sorted({*multiples.tolist(), size})
