"""Heat: thermal zones, and the Raspberry Pi firmware's throttle bits."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Any, Dict, List, Optional

from .files import number, paths, text

# raspberrypi/documentation, os/graphics-utilities: vcgencmd get_throttled
_BITS = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}


def parse_throttled(output: str) -> List[str]:
    """What ``vcgencmd get_throttled`` says is happening now; ``ValueError`` when it says something else."""
    match = re.match(r"throttled=0x([0-9a-fA-F]+)\s*$", output)
    if not match:
        raise ValueError(f"vcgencmd get_throttled answered {output!r}")
    bits = int(match[1], 16)
    return [name for bit, name in _BITS.items() if bits >> bit & 1]


def _throttled() -> Optional[List[str]]:
    tool = shutil.which("vcgencmd")
    if not tool:
        return None
    try:
        done = subprocess.run([tool, "get_throttled"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=5, check=True)
        return parse_throttled(done.stdout.decode("ascii", "replace"))
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def state(root: str = "/") -> Dict[str, Any]:
    """Temperatures by zone, and what throttles now (None: the device does not tell)."""
    zones = {}
    for path in paths(root, "sys/class/thermal/thermal_zone*/temp"):
        value = number(root, path)
        if value is not None:
            zone = path.rsplit("/", 1)[0]
            zones[f"{zone.rsplit('/', 1)[1]} {text(root, zone + '/type') or ''}".strip()] = value / 1000
    return {"temperatures_c": zones, "throttled": _throttled()}
