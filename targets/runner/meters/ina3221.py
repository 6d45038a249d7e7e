"""The Jetson's INA3221: hwmon (JetPack 5 and later) or the older iio driver (JetPack 4).

Jetson Linux developer guide, "Power and performance", and the kernel's hwmon/ina3221.rst.  The total is the rail that feeds the module
(VDD_IN, or POM_5V_IN); where there is none, the sum of the rails, for rails behind that one would be counted twice.
"""

from __future__ import annotations

import glob
import os
import re
from typing import List, Optional, Tuple

from . import METERS, PowerMeter
from .files import reading, word

_INPUTS = ("VDD_IN", "POM_5V_IN")
_UNUSED = re.compile(r"NC$|sum of shunt voltages", re.IGNORECASE)
_BUS = "sys/bus/i2c/drivers/ina3221*/*-00*/"
_DEFAULT_S = 0.1


class _Rail:
    """One channel.  ``files``: a power in mW, or a voltage in mV and a current in mA."""

    def __init__(self, label: str, files: List[str]) -> None:
        self.label, self.files = label, files

    def watts(self) -> float:
        values = [reading(file) for file in self.files]
        return values[0] / 1e3 if len(values) == 1 else values[0] * values[1] / 1e6


def _hwmon(root: str) -> List[_Rail]:
    rails = []
    for label in sorted(glob.glob(os.path.join(root, _BUS, "hwmon/hwmon*/in[0-9]_label"))):
        voltage = label.replace("_label", "_input")
        current = os.path.join(os.path.dirname(label), f"curr{os.path.basename(label)[2]}_input")
        if os.path.exists(current):
            rails.append(_Rail(word(label), [voltage, current]))
    return rails


def _iio(root: str) -> List[_Rail]:
    rails = []
    for label in sorted(glob.glob(os.path.join(root, _BUS, "iio:device*/rail_name_[0-9]"))):
        rails.append(_Rail(word(label), [label.replace("rail_name_", "in_power") + "_input"]))
    return rails


def _numbers(root: str, name: str) -> List[int]:
    """A number that the hwmon driver reports."""
    words = [word(path) for path in glob.glob(os.path.join(root, _BUS, "hwmon/hwmon*", name))]
    return [int(value) for value in words if value.isdigit() and int(value) > 0]


def _period_s(root: str) -> float:
    """``update_interval`` is in ms (kernel doc: hwmon/sysfs-interface.rst)."""
    return max([_DEFAULT_S, *(interval / 1e3 for interval in _numbers(root, "update_interval"))])


@METERS.register("ina3221")
class Ina3221Meter(PowerMeter):
    """Power of the module; what the carrier board draws is not seen."""

    name = "ina3221"

    def __init__(self, rails: List[_Rail], period_s: float, averaged: List[int]) -> None:
        super().__init__()
        self.period_s = period_s
        self._rails, self.covers = self._total(rails)
        if averaged:
            self.covers += f", averaged over {averaged[0]} samples"
        self.watts()

    @staticmethod
    def _total(rails: List[_Rail]) -> Tuple[List[_Rail], str]:
        inputs = [rail for rail in rails if rail.label in _INPUTS]
        if inputs:
            return inputs[:1], f"module input {inputs[0].label}"
        return rails, "the sum of the rails " + ", ".join(rail.label for rail in rails)

    @classmethod
    def find(cls, root: str = "/") -> Optional[Ina3221Meter]:
        rails = [rail for rail in _hwmon(root) or _iio(root) if rail.label and not _UNUSED.match(rail.label)]
        return cls(rails, _period_s(root), _numbers(root, "samples")) if rails else None

    def watts(self) -> float:
        return sum(rail.watts() for rail in self._rails)
