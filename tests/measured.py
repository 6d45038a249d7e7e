"""Measurements and reports that several test files share."""

from __future__ import annotations

from edgeprune.bench import Comparison, DeviceInfo, Measurement, Report

MEASURED = Measurement("m", 1.0, 0.9, 1.1, 1.2, 1.3, (1, 2), 10, 20, 1.0, 1.0, 5, None, None, "r", "1", 1, "d", "precise", True)

STATE = {"governor": "performance", "limit_mhz": 1800.0, "cores": 4}
PLAIN = Measurement(
    *("m.tflite", 1.0, 0.99, 1.01, 1.2, 1.3, (1_000_000, 999_999, 2**40), 10, 20, 1.0, 1.0, 5, None, None, "tflite-runtime", "2.14"),
    *(2, "board (aarch64, 4 cores, abc)", "precise", True, STATE),
)


def device_info() -> DeviceInfo:
    return DeviceInfo("local:", "cpu", "aarch64", 4, None, (), "board", 1, "os", "6", "glibc", "3.11", "/py", "host", "abc", {}, {}, ())


def report(*measurements: Measurement, comparisons: tuple[Comparison, ...] = ()) -> Report:
    return Report(device_info(), measurements, comparisons)
