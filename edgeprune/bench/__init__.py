"""Measuring models on devices.  Calling the package is calling :func:`bench`: ``edgeprune.bench("model.tflite", target="pi5")``."""

import sys
from types import ModuleType
from typing import Any

from edgeprune.bench.device import Device, open_device, probe
from edgeprune.bench.info import DeviceInfo
from edgeprune.bench.results import Artifact, BenchOptions, Comparison, KernelTime, Measurement, Ratio, comparable
from edgeprune.bench.run import Report, bench

__all__ = [
    "Artifact",
    "BenchOptions",
    "Comparison",
    "Device",
    "DeviceInfo",
    "KernelTime",
    "Measurement",
    "Ratio",
    "Report",
    "bench",
    "comparable",
    "open_device",
    "probe",
]


class _Bench(ModuleType):
    def __call__(self, *arguments: Any, **options: Any) -> Report:
        return bench(*arguments, **options)


sys.modules[__name__].__class__ = _Bench
