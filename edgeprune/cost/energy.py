"""Energy of one inference: power while it runs, and what every operation and byte takes on top."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeprune.cost.kernels import Kernel, macs, moved_bytes
from edgeprune.cost.width import Widths, alive


@dataclass
class EnergyModel:
    """``scale * (active_w * t + pj_per_mac * MACs + pj_per_byte * bytes)``, idle power subtracted; millijoules.

    ``scale`` is 1 until a meter has measured the model.
    """

    kernels: Sequence[Kernel]
    active_w: float
    pj_per_mac: float
    pj_per_byte: float
    scale: float = 1.0

    def kernel_mj(self, kernel: Kernel, in_width: float, out_width: float, milliseconds: float) -> float:
        """Millijoules of one kernel that takes ``milliseconds``."""
        arithmetic = self.pj_per_mac * macs(kernel.spec, in_width, out_width)
        moved = self.pj_per_byte * moved_bytes(kernel.spec, in_width, out_width)
        return self.scale * (self.active_w * milliseconds + (arithmetic + moved) * 1e-9)

    def predict(self, widths: Widths, latency_ms: float) -> float:
        """Millijoules of one inference that takes ``latency_ms``."""
        dynamic = sum(self.kernel_mj(*kernel, 0.0) for kernel in alive(self.kernels, widths))
        return dynamic + self.scale * self.active_w * latency_ms

    def calibrate(self, predicted_mj: float, measured_mj: float) -> None:
        """Take the meter's word for the whole model."""
        self.scale *= measured_mj / predicted_mj

    def describe(self) -> str:
        """The model's constants, for the reader."""
        return f"modelled: {self.active_w:.3g} W x latency + {self.pj_per_mac:.3g} pJ/MAC + {self.pj_per_byte:.3g} pJ/byte"
