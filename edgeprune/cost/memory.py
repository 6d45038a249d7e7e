"""Peak memory: weights and the largest set of activations alive at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np
from torch import fx

from edgeprune.cost.kernels import Kernel
from edgeprune.cost.weights import FLOAT32, Storage
from edgeprune.cost.width import Width, Widths


@dataclass
class MemoryModel:
    """``offset_bytes + weight_copies * resident + scale * largest step``; ``resident``: bytes that ``storage`` keeps of a plan's weights.

    ``steps``: for every kernel the elements alive while it runs, as a :class:`Width` (channels already times extent).
    """

    steps: list[Width]
    storage: Storage = FLOAT32
    offset_bytes: float = 0.0
    weight_copies: float = field(init=False)
    scale: float = 1.0

    def __post_init__(self) -> None:
        self.weight_copies = self.storage.copies

    def activations(self, widths: Widths) -> float:
        """Bytes of the largest step."""
        return self.storage.activation * max(step.at(widths) for step in self.steps)

    def predict(self, widths: Widths, resident_bytes: float) -> float:
        """Bytes at the peak."""
        return self.offset_bytes + self.weight_copies * resident_bytes + self.scale * self.activations(widths)

    def calibrate(self, observed: Sequence[tuple[Widths, float, float]]) -> None:
        """Fit offset and copies of the weights to (widths, resident bytes, measured peak bytes): least squares, ridge towards the storage's
        copies."""
        rest = np.array([peak - self.scale * self.activations(widths) for widths, _, peak in observed])
        weights = np.array([weights for _, weights, _ in observed])
        size = float(weights.max()) or 1.0
        design = np.vstack([np.column_stack([np.ones(len(rest)), weights / size]), [0.0, 0.1]])
        wanted = np.append(rest, 0.1 * self.storage.copies * size)
        offset, copies = np.linalg.lstsq(design, wanted, rcond=None)[0]
        self.offset_bytes, self.weight_copies = float(offset), float(copies) / size


def memory_model(kernels: Sequence[Kernel], storage: Storage = FLOAT32) -> MemoryModel:
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
    return MemoryModel(_undominated(steps), storage)


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
