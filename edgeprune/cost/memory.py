"""Peak memory: weights and the largest set of activations alive at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np

from edgeprune.cost.arena import greedy_arena
from edgeprune.cost.kernels import Kernel, KernelSpec, attention_places
from edgeprune.cost.weights import FLOAT32, Storage
from edgeprune.cost.width import WidthExpr, Widths


@dataclass
class MemoryModel:
    """``offset_bytes + weight_copies * resident + scale * largest step``; ``resident``: bytes that ``storage`` keeps of a plan's weights.

    ``steps``: for every kernel the elements alive while it runs, as a :class:`WidthExpr` (channels already times extent).
    ``lives``: where the runtime's planner leaves gaps, every tensor's elements with the first and the last step in which it is alive.
    """

    steps: list[WidthExpr]
    storage: Storage = FLOAT32
    lives: list[tuple[WidthExpr, int, int]] = field(default_factory=list)
    offset_bytes: float = 0.0
    weight_copies: float = field(init=False)
    scale: float = 1.0

    def __post_init__(self) -> None:
        self.weight_copies = self.storage.copies

    def activations(self, widths: Widths) -> float:
        """Bytes of the largest step, or of all tensors as the planner lays them."""
        if self.lives:
            return greedy_arena([(self.storage.activation * size.at(widths), first, last) for size, first, last in self.lives])
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
    sizes: dict[object, WidthExpr] = {}
    first: dict[object, int] = {}
    last: dict[object, int] = {}
    schedule = list(_schedule(kernels, storage))
    for step, (made, size, read, input_size) in enumerate(schedule):
        for part in read:
            last[part] = step
            if part not in sizes:  # a model input
                sizes[part], first[part] = input_size, 0
        sizes[made], first[made] = size, step
    lives = [(size, first[name], max(last.get(name, 0), first[name])) for name, size in sizes.items()]
    steps = [sum((size for size, begin, end in lives if begin <= step <= end), WidthExpr(0.0)) for step in range(len(schedule))]
    return MemoryModel(_undominated(steps), storage, lives if storage.greedy else [])


def _schedule(kernels: Sequence[Kernel], storage: Storage) -> Iterator[tuple[object, WidthExpr, tuple[object, ...], WidthExpr]]:
    """In their order the tensors that are made: a name, the size, the names of what is read for it, and the size of the first of those."""
    for kernel in kernels:
        spec, read = kernel.spec, tuple[object, ...](kernel.parts)
        entering = kernel.in_width.scaled(prod(spec.rows_in))
        if storage.greedy and padded_apart(spec):
            rows = [size + 2 * (window // 2) for size, window in zip(spec.rows_in, spec.window, strict=True)]
            padded = kernel.in_width.scaled(prod(rows))
            yield ("pad", kernel.node), padded, read[:1], entering
            read, entering = (("pad", kernel.node), *read[1:]), padded
        if spec.kind.startswith("attention"):
            heads = kernel.out_width if spec.kind == "attention" else WidthExpr(float(spec.groups))
            scores = heads.scaled(prod(attention_places(spec)))
            yield ("scores", kernel.node), scores, read, entering
            read = (("scores", kernel.node), *read)
        yield kernel.node, kernel.out_width.scaled(prod(spec.rows_out)), read, entering


def padded_apart(spec: KernelSpec) -> bool:
    """Whether TFLite pads in an operation of its own: its SAME padding is not the symmetric one of PyTorch."""
    if not spec.padded or spec.kind not in ("conv2d", "depthwise_conv2d"):
        return False
    same = [
        max((made - 1) * stride + window - size, 0)
        for size, made, stride, window in zip(spec.rows_in, spec.rows_out, spec.stride, spec.window, strict=True)
    ]
    return any(total != 2 * (window // 2) for total, window in zip(same, spec.window, strict=True))


def _undominated(steps: list[WidthExpr]) -> list[WidthExpr]:
    """Only steps that can be the largest: each one that another exceeds term by term is left out."""
    unique = list(dict.fromkeys(steps))
    kept: list[WidthExpr] = []
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
