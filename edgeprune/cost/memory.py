"""Peak memory: weights and the largest set of activations alive at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from torch import fx

from edgeprune.cost.kernels import Kernel
from edgeprune.cost.width import Width, Widths

FLOAT = 4


@dataclass
class MemoryModel:
    """``offset_bytes + weight_copies * weights + scale * largest step``.

    ``steps``: for every kernel the elements alive while it runs, as a :class:`Width` (channels already times extent).
    """

    steps: list[Width]
    offset_bytes: float = 0.0
    weight_copies: float = 1.0
    scale: float = 1.0

    def activations(self, widths: Widths) -> float:
        """Bytes of the largest step."""
        return FLOAT * max(step.at(widths) for step in self.steps)

    def predict(self, widths: Widths, weight_bytes: float) -> float:
        """Bytes at the peak."""
        return self.offset_bytes + self.weight_copies * weight_bytes + self.scale * self.activations(widths)

    def calibrate(self, observed: Sequence[tuple[Widths, float, float]]) -> None:
        """Fit the offset to (widths, weight bytes, measured peak bytes): the mean error of the newest three."""
        errors = [peak - (self.predict(widths, weights) - self.offset_bytes) for widths, weights, peak in observed[-3:]]
        self.offset_bytes = sum(errors) / len(errors)


def memory_model(kernels: Sequence[Kernel]) -> MemoryModel:
    """Liveness over the kernels' order: a tensor lives from the kernel that makes it to the last that reads it."""
    sizes: dict[fx.Node, Width] = {}
    last: dict[fx.Node, int] = {}
    for index, kernel in enumerate(kernels):
        sizes[kernel.node] = kernel.result.scaled(prod(kernel.form.rows_out))
        for part in kernel.parts:
            last[part] = index
            if part not in sizes:  # a model input
                sizes[part] = kernel.source.scaled(prod(kernel.form.rows_in))
    made = {kernel.node: index for index, kernel in enumerate(kernels)}
    steps = []
    for index in range(len(kernels)):
        alive = [size for node, size in sizes.items() if made.get(node, -1) <= index <= max(last.get(node, -1), made.get(node, -1))]
        steps.append(sum(alive, Width(0.0)))
    return MemoryModel(_undominated(steps))


def _undominated(steps: list[Width]) -> list[Width]:
    """Only steps that can be the largest: each one that another exceeds term by term is left out."""
    unique = list(dict.fromkeys(steps))
    kept: list[Width] = []
    for step in unique:
        terms = dict(step.terms)
        if not any(
            other is not step
            and other.constant >= step.constant
            and all(dict(other.terms).get(group, 0) >= factor for group, factor in terms.items())
            for other in unique
        ):
            kept.append(step)
    return kept
