"""The state of a device before and after a measurement, as its runner reads it."""

from __future__ import annotations

from typing import TypedDict


class Conditions(TypedDict, total=False):
    """Load, processors, clocks in MHz, temperatures in Celsius, what throttles now and has since boot, counted events; of phones the
    battery and the thermal status.  What a device does not report is missing or None."""

    loadavg: float
    cores: int | None
    governor: str | None
    clocks_mhz: list[float]
    limit_mhz: float | None
    temperatures_c: dict[str, float]
    limits_c: dict[str, float]
    throttled: list[str] | None
    occurred: list[str] | None
    events: dict[str, int]
    nvpmodel: str
    battery: dict[str, float | int | str | bool | None] | None
    thermal_status: str | int | None
