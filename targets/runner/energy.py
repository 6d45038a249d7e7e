"""Energy of one inference, from a run of its own so that reading a meter never disturbs the latency."""

from __future__ import annotations

import time
from typing import Any, Callable, Dict, List, Optional

from .meters import METERS, Meter


def find_meter() -> Optional[Meter]:
    """The first meter that works here."""
    for name in METERS.names():
        meter = METERS.get(name).open()
        if meter is not None:
            return meter
    return None


def measure_energy(run: Callable[[int], List[int]], seconds: float, meter: Optional[Meter] = None) -> Dict[str, Any]:
    """``energy_mj`` of one inference above idle, or null with no meter.  ``run(ns)`` runs for that long and returns one item a run."""
    meter = meter or find_meter()
    if meter is None:
        return {"energy_mj": None, "energy_method": None}
    meter.start()
    begin = time.monotonic()
    time.sleep(seconds)
    idle_w = meter.stop() / (time.monotonic() - begin)
    meter.start()
    begin = time.monotonic()
    runs = len(run(int(seconds * 1e9)))
    elapsed = time.monotonic() - begin
    active_j = meter.stop() - idle_w * elapsed
    return {
        "energy_mj": 1e3 * active_j / runs,
        "energy_method": f"{type(meter).__name__}: {meter.covers}, idle of {idle_w:.2f} W subtracted",
    }
