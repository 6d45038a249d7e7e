"""Kernel times and power from a device profile, for when there is no device: predicted, not measured."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgeprune.cost.kernels import Kernel, macs, moved_bytes
from edgeprune.profile import Profile


@dataclass
class PriorTimes:
    """Roofline: the larger of arithmetic and memory time, plus an overhead for every kernel.

    Output widths count as the next multiple of the device's channel step: kernels compute whole blocks.
    """

    profile: Profile
    measured: bool = False

    def milliseconds(self, kernel: Kernel, source: float, result: float) -> float:
        """Time of ``kernel`` at those widths, in milliseconds."""
        form, prior = kernel.form, self.profile.prior
        step = self.profile.channel_step
        block = math.ceil(result / step) * step if form.kind in ("conv2d", "fully_connected") else result
        kind = (
            "pointwise"
            if form.kind == "conv2d" and math.prod(form.window) == 1
            else {"conv2d": "conv", "depthwise_conv2d": "depthwise"}.get(form.kind, form.kind)
        )
        rate = prior.macs_per_s.get(kind)
        arithmetic = macs(form, source, block) / rate if rate else 0.0
        return 1e3 * max(arithmetic, moved_bytes(form, source, result) / prior.bytes_per_s) + prior.kernel_overhead_ms


def power_of(profile: Profile) -> tuple[float, float, float]:
    """(active watts above idle, pJ per MAC, pJ per byte): the energy model's constants."""
    power = profile.power
    return power.active_w - power.idle_w, power.energy_per_mac_pj, power.energy_per_byte_pj
