"""Heat: thermal zones, with the temperature at which the kernel begins to slow the processor.

Kernel doc: driver-api/thermal/sysfs-api.rst.
"""

from __future__ import annotations

from typing import Any, Dict, Optional

from .files import number, paths, text


def _limit(root: str, zone: str) -> Optional[float]:
    """The lowest passive or hot trip point of a zone in Celsius; None where it has none."""
    limits = []
    for path in paths(root, f"{zone}/trip_point_*_type"):
        if text(root, path) in ("passive", "hot"):
            value = number(root, path.replace("_type", "_temp"))
            if value is not None and value > 0:
                limits.append(value / 1000)
    return min(limits, default=None)


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
