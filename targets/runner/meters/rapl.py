"""Intel and AMD package energy: ``/sys/class/powercap/intel-rapl:*/energy_uj`` (kernel doc: power/powercap/powercap.rst)."""

from __future__ import annotations

import glob
import os
from typing import List, Optional

from . import METERS, Meter, MeterError
from .files import reading


@METERS.register("rapl")
class RaplMeter(Meter):
    """Sum of the packages' counters, in microjoules; each wraps to 0 beyond ``max_energy_range_uj``."""

    name = "rapl"
    covers = "CPU packages"
    period_s = 0.001  # Intel SDM volume 3, 15.10: the counters are updated about once a millisecond

    def __init__(self, zones: List[str]) -> None:
        self._zones = zones
        self._ranges = [reading(os.path.join(zone, "max_energy_range_uj")) for zone in zones]
        self._begin = self._read()

    @classmethod
    def find(cls, root: str = "/") -> Optional[RaplMeter]:
        zones = sorted(glob.glob(os.path.join(root, "sys/class/powercap/intel-rapl:[0-9]*")))
        zones = [zone for zone in zones if os.path.basename(zone).count(":") == 1]
        return cls(zones) if zones else None

    def _read(self) -> List[int]:
        values = [reading(os.path.join(zone, "energy_uj")) for zone in self._zones]
        for zone, value, limit in zip(self._zones, values, self._ranges):
            if not 0 <= value <= limit:
                raise MeterError(f"{zone}: {value} uJ is beyond the counter's range of {limit}")
        return values

    def start(self) -> None:
        self._begin = self._read()

    def stop(self) -> float:
        moved = [(end - begin) % (limit + 1) for begin, end, limit in zip(self._begin, self._read(), self._ranges)]
        return sum(moved) / 1e6
