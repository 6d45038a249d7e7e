"""Heat: thermal zones, with the temperature that the kernel keeps them below by slowing the processor.

Kernel doc: driver-api/thermal/sysfs-api.rst.
"""

from __future__ import annotations

from typing import Any, Dict, List, Optional

from .files import number, paths, text


def _limit(root: str, zone: str) -> Optional[float]:
    """The highest passive trip point of a zone in Celsius, or a hot one below it; None where it has none.

    Of two passive ones, the lower only switches the governor on that keeps the zone below the higher (kernel doc:
    driver-api/thermal/power_allocator.rst).  That a processor is being slowed is what its cooling devices report, see
    :mod:`throttle <.throttle>`.
    """
    limits: Dict[str, List[float]] = {"passive": [], "hot": []}
    for path in paths(root, f"{zone}/trip_point_*_type"):
        value = number(root, path.replace("_type", "_temp"))
        kind = text(root, path)
        if kind in limits and value is not None and value > 0:
            limits[kind].append(value / 1000)
    return min([*limits["hot"], *sorted(limits["passive"])[-1:]], default=None)


def state(root: str = "/") -> Dict[str, Any]:
    """Temperatures by zone, and those zones' limits, in Celsius."""
    zones, limits = {}, {}
    for path in paths(root, "sys/class/thermal/thermal_zone*/temp"):
        value = number(root, path)
        if value is not None:
            zone = path.rsplit("/", 1)[0]
            name = f"{zone.rsplit('/', 1)[1]} {text(root, zone + '/type') or ''}".strip()
            zones[name] = value / 1000
            limit = _limit(root, zone)
            if limit is not None:
                limits[name] = limit
    return {"temperatures_c": zones, "limits_c": limits}
