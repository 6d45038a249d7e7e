"""A battery's fuel gauge: ``/sys/class/power_supply`` (kernel doc: ABI/testing/sysfs-class-power, microamperes and microvolts)."""

from __future__ import annotations

import glob
import os
import time
from typing import List, Optional

from . import METERS, MeterError, PowerMeter
from .files import reading, word

_POLL_S = 0.02
_DETECT_S = 20.0
_CHANGES = 6
_MICROVOLTS = (2e6, 5e7)
_MILLIVOLTS = (2e3, 5e4)
_LEAST_MICROAMPERES = 10_000  # a computing device draws more than 10 mA, and less than 10 A: what is below cannot be microamperes


def volts(value: int) -> float:
    """A voltage reported in microvolts, or by some vendors in millivolts; :class:`MeterError` when it can be neither."""
    if _MICROVOLTS[0] <= value <= _MICROVOLTS[1]:
        return value / 1e6
    if _MILLIVOLTS[0] <= value <= _MILLIVOLTS[1]:
        return value / 1e3
    raise MeterError(f"a battery voltage of {value} is neither in microvolts nor in millivolts")


def ampere_scale(values: List[int]) -> float:
    """Amperes of one unit of ``current_now``, judged from readings under load: microamperes, or milliamperes by some vendors.

    The sign does not matter: vendors differ, and only a discharging battery is read at all.
    """
    largest = max((abs(value) for value in values), default=0)
    if largest == 0:
        raise MeterError("the battery reports a current of 0: its gauge does not measure, or something else feeds the device")
    return 1e-6 if largest >= _LEAST_MICROAMPERES else 1e-3


def update_period_s(changes: List[float]) -> float:
    """The median time between changes of the reading; :class:`MeterError` when fewer than three were seen."""
    gaps = sorted(later - earlier for earlier, later in zip(changes, changes[1:]))
    if len(gaps) < 2:
        raise MeterError(f"the battery's current changed {len(changes)} times in {_DETECT_S:.0f} s: its gauge is too slow")
    return gaps[len(gaps) // 2]


@METERS.register("battery")
class BatteryMeter(PowerMeter):
    """The whole device, as long as nothing charges it."""

    name = "battery"
    covers = "whole device"
    order = 1

    def __init__(self, supply: str) -> None:
        super().__init__()
        self._supply = supply
        self._scale = 0.0
        self.period_s = 1.0
        self._check()
        volts(self._read("voltage_now"))
        self._read("current_now")

    @classmethod
    def find(cls, root: str = "/") -> Optional[BatteryMeter]:
        for supply in sorted(glob.glob(os.path.join(root, "sys/class/power_supply/*"))):
            if word(os.path.join(supply, "type")) == "Battery":
                return cls(supply)
        return None

    def _read(self, name: str) -> int:
        return reading(os.path.join(self._supply, name))

    def _check(self) -> None:
        status = word(os.path.join(self._supply, "status"))
        if status != "Discharging":
            raise MeterError(f"the battery is {status.lower() or 'in an unknown state'}: unplug the charger, which would be measured too")

    def prepare(self) -> None:
        """Watch the reading until it changed a few times: that shows how often, and the largest shows its unit."""
        begin = time.monotonic()
        values, changes = [self._read("current_now")], []
        while len(changes) < _CHANGES and time.monotonic() - begin < _DETECT_S:
            time.sleep(_POLL_S)
            value = self._read("current_now")
            if value != values[-1]:
                changes.append(time.monotonic())
                values.append(value)
        self._scale = ampere_scale(values)
        self.period_s = update_period_s(changes)

    def watts(self) -> float:
        self._check()
        current = self._read("current_now")
        return volts(self._read("voltage_now")) * abs(current) * (self._scale or ampere_scale([current]))
