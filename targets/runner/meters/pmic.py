"""The Raspberry Pi 5's power chip: ``vcgencmd pmic_read_adc`` (raspberrypi/documentation, os/graphics-utilities)."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Dict, Optional

from . import METERS, MeterError, PowerMeter

# "  3V7_WL_SW_A current(0)=0.09759A", and without the channel: "3V7_WL_SW_A=0.09759A"
_LINE = re.compile(r"(\w+)_([AV])(?:\s+(?:current|volt)\(\d+\))?\s*=\s*([0-9.]+)([AV])")


def parse(output: str) -> Dict[str, float]:
    """Watts by rail.  EXT5V and BATT have no current and are left out; :class:`MeterError` when a line or a rail's voltage is damaged."""
    found: Dict[str, Dict[str, float]] = {}
    for line in filter(None, map(str.strip, output.splitlines())):
        match = _LINE.fullmatch(line)
        if not match or match[2] != match[4]:
            raise MeterError(f"vcgencmd pmic_read_adc said {line!r}")
        try:
            found.setdefault(match[1], {})[match[2]] = float(match[3])
        except ValueError:
            raise MeterError(f"vcgencmd pmic_read_adc said {line!r}") from None
    rails = {name: pair for name, pair in found.items() if "A" in pair}
    lonely = sorted(name for name, pair in rails.items() if "V" not in pair)
    if lonely or not rails:
        raise MeterError(
            f"vcgencmd pmic_read_adc printed no voltage of {lonely[0]}" if lonely else "vcgencmd pmic_read_adc printed no current"
        )
    return {name: pair["A"] * pair["V"] for name, pair in rails.items()}


@METERS.register("pmic")
class PmicMeter(PowerMeter):
    """Sum of the rails behind the chip; what the 5 V pins and the USB ports draw is not seen.

    Read ten times a second: each reading starts a process, and more of them slow the model down.
    """

    name = "pmic"
    covers = "rails behind the power chip, without 5 V pins and USB"
    period_s = 0.1

    def __init__(self, tool: str) -> None:
        super().__init__()
        self._tool = tool
        self.watts()

    @classmethod
    def find(cls, root: str = "/") -> Optional[PmicMeter]:
        tool = shutil.which("vcgencmd")
        return cls(tool) if tool else None

    def watts(self) -> float:
        try:
            done = subprocess.run(
                [self._tool, "pmic_read_adc"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=5
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise MeterError(f"vcgencmd pmic_read_adc: {error}") from error
        if done.returncode:
            raise MeterError(f"vcgencmd pmic_read_adc ended with exit code {done.returncode}")
        return sum(parse(done.stdout.decode("ascii", "replace")).values())
