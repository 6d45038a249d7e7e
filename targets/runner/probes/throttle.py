"""What holds the processor back: the Raspberry Pi firmware's bits, cooling devices in action, counters of throttling, the Jetson's mode."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Any, Dict, List, Optional

from .files import number, paths, text

# raspberrypi/documentation, os/graphics-utilities: vcgencmd get_throttled; 16 bits higher: has happened since boot
_BITS = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}
_COUNTERS = (
    "sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count",  # x86: kernel doc, ABI/testing/sysfs-devices-system-cpu
    "sys/class/hwmon/hwmon*/oc[0-9]_event_cnt",  # Jetson Orin's over-current events: Jetson Linux developer guide, "Power and performance"
)
_PROCESSOR = re.compile("cpufreq|processor", re.IGNORECASE)  # cooling devices that slow the processor down, unlike fans


def parse_throttled(output: str) -> List[str]:
    """What ``vcgencmd get_throttled`` says is happening now; ``ValueError`` when it says something else."""
    return _names(_bits(output))


def parse_occurred(output: str) -> List[str]:
    """What it says has happened since boot."""
    return _names(_bits(output) >> 16)


def _bits(output: str) -> int:
    match = re.match(r"throttled=0x([0-9a-fA-F]+)\s*$", output)
    if not match:
        raise ValueError(f"vcgencmd get_throttled answered {output!r}")
    return int(match[1], 16)


def _names(bits: int) -> List[str]:
    return [name for bit, name in _BITS.items() if bits >> bit & 1]


def _firmware() -> Optional[str]:
    tool = shutil.which("vcgencmd")
    if not tool:
        return None
    try:
        done = subprocess.run([tool, "get_throttled"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=5, check=True)
        answer = done.stdout.decode("ascii", "replace")
        _bits(answer)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return answer


def _cooling(root: str) -> List[str]:
    found = []
    for path in paths(root, "sys/class/thermal/cooling_device*/cur_state"):
        kind = text(root, path.replace("cur_state", "type")) or ""
        level = number(root, path)
        if level and _PROCESSOR.search(kind):
            found.append(f"{kind} at level {level}")
    return found


def state(root: str = "/") -> Dict[str, Any]:
    """What throttles now and has since boot (None: the device does not report it), counted events, and the Jetson's power mode."""
    firmware = _firmware()
    events = {path: number(root, path) for pattern in _COUNTERS for path in paths(root, pattern)}
    cooling = _cooling(root)
    found: Dict[str, Any] = {
        "throttled": cooling if firmware is None and paths(root, "sys/class/thermal/cooling_device*") else None,
        "occurred": None,
        "events": {path: count for path, count in events.items() if count},
    }
    if firmware is not None:
        found.update(throttled=parse_throttled(firmware) + cooling, occurred=parse_occurred(firmware))
    mode = text(root, "var/lib/nvpmodel/status")
    return dict(found, nvpmodel=mode) if mode else found
