"""Kernel times and power from a device profile, for when there is no device: predicted, not measured."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgeprune.cost.kernels import CONTRACTIONS, OPERATIONS, RECURRENT, Kernel, KernelSpec, macs, moved_bytes
from edgeprune.errors import ProfileError
from edgeprune.profile import Profile

KINDS = {"conv2d": "conv", "transpose_conv2d": "conv", "depthwise_conv2d": "depthwise", **dict.fromkeys(RECURRENT, "fully_connected")}
KINDS |= {"attention": "fully_connected", "attention_dimensions": "fully_connected"}
"""What a profile's rates call a kind of kernel, where it is not the kind's own name."""


@dataclass
class PriorTimes:
    """Roofline: the larger of arithmetic and memory time, plus an overhead for every kernel.

    Output widths count as the next multiple of the device's channel step: kernels compute whole blocks. A microcontroller's activations and
    weights are int8, all others' float32. Raises :class:`ProfileError` for a profile without a prior.
    """

    profile: Profile
    measured: bool = False
    call_ms: float = 0.0

    def __post_init__(self) -> None:
        if self.profile.prior is None:
            raise ProfileError(f"the profile {self.profile.name} has no published latency", remedy="Leave latency out of the budget.")
        self._prior = self.profile.prior
        self._shrink = 0.25 if self.profile.micro else 1.0

    def milliseconds(self, kernel: Kernel, in_width: float, out_width: float) -> float:
        """Time of ``kernel`` at those widths, in milliseconds."""
        return self.spec_milliseconds(kernel.spec, in_width, out_width)

    def spec_milliseconds(self, spec: KernelSpec, in_width: float, out_width: float) -> float:
        """Time of a kernel of that spec at those widths, in milliseconds."""
        prior, step = self._prior, self._prior.channel_step
        block = math.ceil(out_width / step) * step if spec.kind in CONTRACTIONS else out_width
        kind = "pointwise" if spec.kind == "conv2d" and math.prod(spec.window) == 1 else KINDS.get(spec.kind, spec.kind)
        rate = prior.macs_per_s.get(kind)
        arithmetic = macs(spec, in_width, block) / rate if rate else 0.0
        moved = self._shrink * moved_bytes(spec, in_width, out_width)
        operations = OPERATIONS.get(spec.kind, 1) * (math.prod(spec.rows_out) if spec.kind == "gru" else 1)
        return 1e3 * max(arithmetic, moved / prior.bytes_per_s) + operations * prior.kernel_overhead_ms


def power_of(profile: Profile) -> tuple[float, float, float]:
    """(active watts above idle, pJ per MAC, pJ per byte): the energy model's constants; NaN where the profile knows no power."""
    power = profile.power
    if power is None:
        return math.nan, math.nan, math.nan
    return power.active_w - power.idle_w, power.energy_per_mac_pj, power.energy_per_byte_pj
