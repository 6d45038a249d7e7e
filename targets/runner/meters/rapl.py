"""Intel and AMD package energy: ``/sys/class/powercap/intel-rapl:*/energy_uj`` (kernel doc: power/powercap/powercap.rst)."""

from __future__ import annotations

import glob
import os
from typing import List, Optional

from . import METERS, Meter


def _number(path: str) -> int:
    with open(path, encoding="ascii") as file:
        return int(file.read())


@METERS.register("rapl")
class RaplMeter(Meter):
    """Sum of the packages' counters, in microjoules; each wraps to 0 beyond ``max_energy_range_uj``."""

    covers = "CPU packages"

    def __init__(self, zones: List[str]) -> None:
        self._zones = zones
        self._ranges = [_number(os.path.join(zone, "max_energy_range_uj")) for zone in zones]
        self._begin: List[int] = []

    @classmethod
    def open(cls, root: str = "/") -> Optional[RaplMeter]:
        zones = sorted(glob.glob(os.path.join(root, "sys/class/powercap/intel-rapl:[0-9]*")))
        zones = [zone for zone in zones if os.path.basename(zone).count(":") == 1]
        try:
            meter = cls(zones)
            meter.start()
        except (OSError, ValueError):
            return None
        return meter if zones else None

    def _read(self) -> List[int]:
        return [_number(os.path.join(zone, "energy_uj")) for zone in self._zones]

    def start(self) -> None:
        self._begin = self._read()

    def stop(self) -> float:
        end = self._read()
        total = 0
        for index, begin in enumerate(self._begin):
            total += (end[index] - begin) % (self._ranges[index] + 1)
        return total / 1e6
