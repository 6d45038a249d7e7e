"""The size of a pruned model's file, and what of it stays in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeprune.cost.kernels import Kernel, weights
from edgeprune.cost.width import Widths, alive


def kernel_parameters(kernel: Kernel, in_width: float, out_width: float) -> float:
    """Weights and bias (folded batch norm included) of one kernel at those widths."""
    count = weights(kernel.spec, in_width, out_width)
    return count + out_width if count else 0.0


@dataclass(frozen=True)
class Storage:
    """How a runtime stores a model, in bytes: an ``activation``; in the file a ``weight`` and what belongs to an output ``channel``; in
    memory a ``resident_weight`` and a ``resident_channel``, each ``copies`` times unless measurements say otherwise.

    ``greedy``: activations lie where TFLite Micro's planner puts them.
    """

    activation: int
    weight: int
    channel: int
    resident_weight: int
    resident_channel: int
    copies: float
    greedy: bool = False

    def file_bytes(self, kernel: Kernel, in_width: float, out_width: float) -> float:
        """Of one kernel in the file, at those widths."""
        return _bytes(kernel, in_width, out_width, self.weight, self.channel)

    def resident_bytes(self, kernel: Kernel, in_width: float, out_width: float) -> float:
        """Of one kernel in memory beside activations, once."""
        return _bytes(kernel, in_width, out_width, self.resident_weight, self.resident_channel)

    def total_file_bytes(self, kernels: Sequence[Kernel], widths: Widths) -> float:
        """Of all kernels in the file."""
        return sum(self.file_bytes(*kernel) for kernel in alive(kernels, widths))

    def total_resident_bytes(self, kernels: Sequence[Kernel], widths: Widths) -> float:
        """Of all kernels in memory beside activations, once."""
        return sum(self.resident_bytes(*kernel) for kernel in alive(kernels, widths))


FLOAT32 = Storage(activation=4, weight=4, channel=4, resident_weight=4, resident_channel=4, copies=2.0)
"""Weights and biases are floats, held as in the file and repacked."""

INT8_MICRO = Storage(activation=1, weight=1, channel=28, resident_weight=0, resident_channel=8, copies=1.0, greedy=True)
"""int8 under TFLite Micro: weights stay in flash. A channel has an int32 bias in the file, and for weights and bias a float32 scale and an
int64 zero point each; in the arena an int32 multiplier and an int32 shift (TFLite's quantization specification; OpDataConv of TFLite
Micro's kernels/conv.h)."""


def _bytes(kernel: Kernel, in_width: float, out_width: float, weight: int, channel: int) -> float:
    count = kernel_parameters(kernel, in_width, out_width)
    return weight * (count - out_width) + channel * out_width if count else 0.0
