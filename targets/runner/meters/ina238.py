"""The INA238 on a Jetson Thor's input: hwmon, power in microwatts (kernel doc: hwmon/ina238.rst)."""

from __future__ import annotations

import glob
import os
from typing import Optional

from . import METERS, PowerMeter
from .files import reading, word


@METERS.register("ina238")
class Ina238Meter(PowerMeter):
    """Power of the input that the chip sits in."""

    name = "ina238"
    covers = "board input"
    period_s = 0.1

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path
        self.watts()

    @classmethod
    def find(cls, root: str = "/") -> Optional[Ina238Meter]:
        for name in sorted(glob.glob(os.path.join(root, "sys/class/hwmon/hwmon*/name"))):
            if word(name) == "ina238":
                return cls(os.path.join(os.path.dirname(name), "power1_input"))
        return None

    def watts(self) -> float:
        return reading(self._path) / 1e6
