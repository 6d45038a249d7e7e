"""The short way: one model, one target, one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgeprune.bench.content import require_content
from edgeprune.bench.device import open_device
from edgeprune.bench.info import DeviceInfo
from edgeprune.bench.results import Artifact, BenchOptions, Comparison, Measurement
from edgeprune.decode import JsonObject
from edgeprune.devices.events import OnEvent


@dataclass(frozen=True)
class Report:
    """What :func:`bench` found: one measurement for each thread count, or one comparison each."""

    device: DeviceInfo
    measurements: tuple[Measurement, ...]
    comparisons: tuple[Comparison, ...]

    @property
    def best_threads(self) -> int | None:
        """The fastest number of threads: the least of those that do not measurably differ; None when only one was measured."""
        tried = self.measurements or tuple(item.measurements[1] for item in self.comparisons)
        if len({item.threads for item in tried}) < 2:
            return None
        fastest = min(tried, key=lambda item: item.latency_ms)
        return min(item.threads for item in tried if item.low_ms <= fastest.high_ms)

    def to_json(self) -> JsonObject:
        """As plain JSON values."""
        return {
            "device": self.device.to_json(),
            "measurements": [item.to_json() for item in self.measurements],
            "comparisons": [item.to_json() for item in self.comparisons],
            "best_threads": self.best_threads,
        }


def bench(
    model: str | Path | Artifact,
    target: str = "local:",
    against: str | Path | Artifact | None = None,
    threads: Sequence[int] = (),
    options: BenchOptions | None = None,
    on_event: OnEvent | None = None,
) -> Report:
    """Measure a model file on a target, for each number of ``threads``; with ``against``, in turns with that baseline.

    Raises what :func:`open_device` and :meth:`Device.measure` raise.
    """
    artifacts = [item if isinstance(item, Artifact) else Artifact(Path(item)) for item in (model, against) if item is not None]
    if len(artifacts) == 2 and artifacts[0].name == artifacts[1].name:
        artifacts = [replace(item, name=str(item.path)) for item in artifacts]
    if len(artifacts) == 2 and artifacts[0].name == artifacts[1].name:
        artifacts = [artifacts[0], replace(artifacts[1], name=f"{artifacts[1].name} (baseline)")]
    options = options or BenchOptions()
    wanted = [replace(options, threads=count) for count in threads or (options.threads,)]  # checked before a device is asked
    measurements: list[Measurement] = []
    comparisons: list[Comparison] = []
    for artifact in artifacts:
        require_content(artifact.path, artifact.engine)
    engines = tuple(dict.fromkeys(artifact.engine for artifact in artifacts))
    with open_device(target, engine=engines, on_event=on_event, native=options.native, accelerator=options.accelerator) as device:
        for chosen in wanted:
            if against is None:
                measurements += device.measure(artifacts, chosen)
            else:
                comparisons.append(device.compare(artifacts[1], artifacts[:1], chosen))
        return Report(device.info, tuple(measurements), tuple(comparisons))
