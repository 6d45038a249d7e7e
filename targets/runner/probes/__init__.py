"""Probes: what this device is (:func:`device`), and the state it is in now (:func:`conditions`)."""

from __future__ import annotations

import os
from typing import Any, Dict, List

from . import chips, cpu, ram, system, thermal, throttle


def device(root: str = "/") -> Dict[str, Any]:
    """What does not change between runs."""
    return {**cpu.probe(root), **ram.probe(root), **system.probe(root)}


def accelerators(root: str = "/") -> List[Dict[str, str]]:
    """Chips beside the processor that the system knows, whether or not a runtime can use them."""
    return chips.probe(root)


def conditions(root: str = "/") -> Dict[str, Any]:
    """What may disturb a measurement: load, clocks in MHz, governors, temperatures in Celsius, throttling."""
    return {"loadavg": os.getloadavg()[0], "cores": os.cpu_count(), **cpu.state(root), **thermal.state(root), **throttle.state(root)}
