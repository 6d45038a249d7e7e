"""What an Android device is, by its own tools: it seldom has a Python."""

from __future__ import annotations

import hashlib
import re
from typing import TypedDict

from edgeprune.decode import JsonObject
from edgeprune.devices.framing import new_mark
from edgeprune.devices.session import Session
from edgeprune.errors import DeviceError, printable

# Sections of one command's output, each behind $0 and its name.
_ASK = """
for name in ro.product.manufacturer ro.product.model ro.soc.model ro.hardware ro.build.version.release ro.serialno; do
  echo "$0$name"; getprop $name
done
echo "$0"arch; uname -m; echo "$0"kernel; uname -r; echo "$0"cores; nproc; echo "$0"hostname; hostname
echo "$0"cpuinfo; cat /proc/cpuinfo; echo "$0"meminfo; cat /proc/meminfo; echo "$0"loadavg; cat /proc/loadavg
echo "$0"max_khz; cat /sys/devices/system/cpu/cpu[0-9]*/cpufreq/cpuinfo_max_freq 2> /dev/null
echo "$0"governor; cat /sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor 2> /dev/null | sort -u
echo "$0"battery; dumpsys battery; echo "$0"thermal; dumpsys thermalservice
echo "$0"end
"""
_FEATURES = ("neon", "asimd", "asimdhp", "asimddp", "i8mm", "sve", "sve2", "bf16")
_CHARGE = {1: "unknown", 2: "charging", 3: "discharging", 4: "not charging", 5: "full"}  # BatteryManager.BATTERY_STATUS_*
_HEAT = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")  # PowerManager.THERMAL_STATUS_*


class Battery(TypedDict):
    """Of a phone: charge, voltage and temperature (in Celsius)."""

    level_percent: float
    voltage_v: float
    temperature_c: float
    status: str
    plugged: bool


class Thermal(TypedDict):
    """Of a phone: what its heat management says, and temperatures in Celsius by sensor."""

    status: str
    temperatures_c: dict[str, float]


def parse_battery(dump: str) -> Battery:
    """``dumpsys battery``: level in percent, voltage in V, temperature in Celsius, status, whether it is plugged in.

    Raises ``ValueError`` when it is something else.
    """
    fields = dict(re.findall(r"^\s*([A-Za-z ]+): *(\S+)\s*$", dump, re.MULTILINE))
    try:
        return {
            "level_percent": 100.0 * int(fields["level"]) / int(fields["scale"]),
            "voltage_v": int(fields["voltage"]) / 1000,
            "temperature_c": int(fields["temperature"]) / 10,
            "status": _CHARGE.get(int(fields["status"]), "unknown"),
            "plugged": any(value == "true" for name, value in fields.items() if name.endswith("powered")),
        }
    except KeyError as error:
        raise ValueError(f"dumpsys battery reports no {error.args[0]}") from None


def parse_thermal(dump: str) -> Thermal:
    """``dumpsys thermalservice``: status by name (what throttles), temperatures in Celsius by sensor, as the hardware reports them now.

    Raises ``ValueError`` when it is something else.
    """
    status = re.search(r"^\s*Thermal Status: (\d+)\s*$", dump, re.MULTILINE)
    if not status:
        raise ValueError("dumpsys thermalservice reports no Thermal Status")
    now = dump.partition("Current temperatures from HAL:")[2].partition("Current cooling devices")[0] or dump
    found = re.findall(r"Temperature\{mValue=(-?[\d.]+), mType=-?\d+, mName=([^,}]+)", now)
    index = int(status[1])
    return {
        "status": _HEAT[index] if index < len(_HEAT) else f"level {index}",
        "temperatures_c": {name: round(float(value), 1) for value, name in found},
    }


def describe(session: Session) -> JsonObject:
    """The device as the runner's ``probe`` would report it, with the battery and the thermal status among its conditions.

    Raises :class:`DeviceError` when the device does not answer as Android does.
    """
    mark = new_mark()
    done = session.run(["sh", "-c", _ASK, mark])
    parts = re.split(rf"{mark}(.*)\n", printable(done.stdout))
    values = {name: text.strip() for name, text in zip(parts[1::2], parts[2::2], strict=True)}
    if "end" not in values or not values.get("ro.build.version.release"):
        last = printable(done.stderr).strip().splitlines()[-1:] or ["it reports no Android version"]
        raise DeviceError(f"{session.address} does not answer as Android does: {last[0]}")
    memory = re.search(r"^MemTotal:\s+(\d+) kB", values["meminfo"], re.MULTILINE)
    flags = re.search(r"^Features\s*:(.*)", values["cpuinfo"], re.MULTILINE)
    clocks = [int(value) for value in values["max_khz"].split() if value.isdigit()]
    return {
        "cpu": values["ro.soc.model"] or values["ro.hardware"] or "unknown",
        "arch": values["arch"],
        "cores": int(values["cores"]) if values["cores"].isdigit() else values["cpuinfo"].count("processor"),
        "max_mhz": max(clocks) / 1000 if clocks else None,
        "features": [name for name in _FEATURES if flags and name in flags[1].split()],
        "board": f"{values['ro.product.manufacturer']} {values['ro.product.model']}".strip(),
        "memory_bytes": int(memory[1]) * 1024 if memory else 0,
        "os": f"Android {values['ro.build.version.release']}",
        "kernel": values["kernel"],
        "libc": "bionic",
        "python": "",
        "python_path": "",
        "hostname": values["hostname"],
        "machine": hashlib.sha256(values["ro.serialno"].encode()).hexdigest()[:12],
        "runtimes": {},
        "meters": [],
        "conditions": _conditions(values),
    }


def _conditions(values: dict[str, str]) -> JsonObject:
    """Load, governor, battery and heat; what the device does not report is left out."""
    state: JsonObject = {"governor": "+".join(values["governor"].split())}
    if load := re.match(r"[\d.]+", values["loadavg"]):
        state["loadavg"] = float(load[0])
    try:
        state["battery"] = parse_battery(values["battery"])
    except ValueError:
        state["battery"] = None
    try:
        thermal = parse_thermal(values["thermal"])
        state |= {"thermal_status": thermal["status"], "temperatures_c": thermal["temperatures_c"]}
    except ValueError:
        state["thermal_status"] = None
    return state
