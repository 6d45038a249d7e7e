"""Where TFLite Micro lays activations in its arena: as its greedy planner does, whose gaps are part of what a model takes."""

from __future__ import annotations

from collections.abc import Sequence

ALIGNMENT = 16

Buffer = tuple[float, int, int]
"""Bytes of a tensor, and the first and the last step in which it is alive."""


def greedy_arena(buffers: Sequence[Buffer]) -> int:
    """Bytes from the arena's start to the end of the last buffer.

    The largest buffers come first (of equals the latest), each at the lowest place that is free while it is alive (TFLite Micro's
    ``memory_planner/greedy_memory_planner.cc``).
    """
    placed: list[tuple[int, int, int, int]] = []  # offset, end, first, last: by offset
    sized = [(-(-int(size + 0.5) // ALIGNMENT) * ALIGNMENT, number, first, last) for number, (size, first, last) in enumerate(buffers)]
    for size, _, first, last in sorted(sized, key=lambda buffer: (-buffer[0], -buffer[1])):
        offset = 0
        for start, end, begin, until in placed:
            if begin <= last and first <= until:
                if start - offset >= size:
                    break
                offset = max(offset, end)
        placed.append((offset, offset + size, first, last))
        placed.sort()
    return max((end for _, end, _, _ in placed), default=0)
