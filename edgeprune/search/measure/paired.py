"""What a measurement of a candidate says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgeprune.bench import Measurement


@dataclass(frozen=True)
class PairedMeasurement:
    """A model measured in turns with the dense one: ``ratio`` of latencies with its interval, and both measurements."""

    ratio: float
    low: float
    high: float
    dense: Measurement
    model: Measurement

    def measures(self, kind: str) -> bool:
        """Whether the session measured what a limit of ``kind`` is about; else it is counted or predicted."""
        if kind == "latency":
            return bool(self.model.samples_ns)
        return self.model.energy_mj is not None if kind == "energy" else kind in ("memory", "size")

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        dense, model = self.dense.to_json(), self.model.to_json()
        return {"ratio": self.ratio, "low": self.low, "high": self.high, "dense": dense, "model": model}

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> PairedMeasurement:
        """What :meth:`to_json` wrote."""
        dense, model = (Measurement.from_json(data[name]) for name in ("dense", "model"))  # type: ignore[arg-type]
        return cls(float(data["ratio"]), float(data["low"]), float(data["high"]), dense, model)  # type: ignore[arg-type]
