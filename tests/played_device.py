"""A stand-in for measuring on this computer: latency in proportion to the file's size, the same each time, without a process.

What it says does not depend on how busy the machine is; what really measures is tested in ``bench`` and ``runner``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import pytest
from measured import PLAIN, device_info

from edgeprune.bench import Artifact, BenchOptions, Comparison, Device, DeviceInfo, Measurement, Ratio, open_device
from edgeprune.devices.runner import OnEvent
from edgeprune.errors import InputError

NS_PER_BYTE = 10.0
SAMPLES = 40


class PlayedDevice:
    """Does what :class:`edgeprune.bench.Device` does to measure, with every file taking 10 ns a byte."""

    def __init__(self, on_event: OnEvent | None = None) -> None:
        self.info: DeviceInfo = device_info()
        self._on_event = on_event

    def measure(self, artifacts: Sequence[Artifact], options: BenchOptions) -> list[Measurement]:
        return [self._measured(artifact, options) for artifact in artifacts]

    def compare(self, baseline: Artifact, candidates: Sequence[Artifact], options: BenchOptions) -> Comparison:
        base, *others = self.measure([baseline, *candidates], options)
        ratios = [(other.name, other.latency_ms / base.latency_ms) for other in others]
        return Comparison((base, *others), tuple(Ratio.judge(name, ratio, 0.99 * ratio, 1.01 * ratio) for name, ratio in ratios))

    def _measured(self, artifact: Artifact, options: BenchOptions) -> Measurement:
        assert artifact.engine
        content = artifact.path.read_bytes()
        if content[4:8] != b"TFL3":
            raise InputError(f"{artifact.name} is not a TFLite file")
        ns = NS_PER_BYTE * len(content)
        times = {"latency_ms": ns, "low_ms": 0.995 * ns, "high_ms": 1.005 * ns, "p90_ms": 1.02 * ns, "p99_ms": 1.03 * ns}
        found = replace(
            PLAIN,
            **{name: value / 1e6 for name, value in times.items()},
            **{"name": artifact.name, "file_bytes": len(content), "file_sha256": hashlib.sha256(content).hexdigest()},
            **{"samples_ns": tuple(int(ns * (0.99 + 0.02 * at / SAMPLES)) for at in range(SAMPLES)), "device": self.info.identity},
            **{"threads": options.threads or self.info.cores, "peak_bytes": len(content), "rss_peak_bytes": 2 * len(content)},
        )
        if self._on_event:
            self._on_event({"event": "measured", "name": found.name, "median_ms": found.latency_ms, "stable": True})
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def play(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``edgeprune bench`` measure on a played device where it would on this computer; other addresses are opened."""

    def opened(target: str, *, on_event: OnEvent | None = None, **given: Any) -> PlayedDevice | Device:
        from edgeprune.devices import resolve_target

        if resolve_target(target).address == "local:":
            return PlayedDevice(on_event)
        return open_device(target, on_event=on_event, **given)

    monkeypatch.setattr("edgeprune.bench.run.open_device", opened)
