"""What was measured of an exported file, as a release carries it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar

from packaging.version import InvalidVersion, Version

from edgeprune.bench import Measurement
from edgeprune.bench.history import Entry
from edgeprune.bench.info import DeviceFacts
from edgeprune.decode import JsonObject
from edgeprune.errors import EvidenceError, InputError
from edgeprune.profile import MICRO, Profile
from edgeprune.release.build.recompute import MEASURE_AGAIN, check_record, not_believed
from edgeprune.release.bundle.codec import canonical
from edgeprune.release.bundle.manifest import Compatibility, Evidence, Runtime
from edgeprune.release.bundle.samples import samples_sha256
from edgeprune.runs.arena import arena_measurement
from edgeprune.runs.finished import Exported, FinishedRun, Score

T = TypeVar("T")

PRIVATE = ("address", "hostname", "python_path", "machine", "key")
"""What a release does not reveal of the device that was measured: it goes to every customer."""


@dataclass(frozen=True)
class Found:
    """A measurement of an exported file. ``at``: UTC. ``facts``: of its device, as far as they are known. ``whole``: all that was recorded.

    Of a microcontroller's memory, latencies are NaN: none was measured.
    """

    measurement: Measurement
    at: str
    target: str
    facts: DeviceFacts
    whole: JsonObject

    def evidence(self, exported: Exported, score: Score | None, raw: str | None = None) -> Evidence:
        """As the manifest holds it."""
        item = self.measurement
        return Evidence(
            artifact=exported.sha256,
            device=item.device,
            target=_public(self.target),
            architecture=str(self.facts.get("arch", "")),
            os=str(self.facts.get("os", "")),
            runtime=item.runtime,
            runtime_version=item.runtime_version,
            threads=item.threads,
            measured_at=self.at,
            latency_ms=_known(item.latency_ms),
            low_ms=_known(item.low_ms),
            high_ms=_known(item.high_ms),
            peak_bytes=item.peak_bytes,
            rss_peak_bytes=item.rss_peak_bytes,
            energy_mj=item.energy_mj,
            energy_method=item.energy_method,
            metric_name=score.metric_name if score else None,
            metric=score.metric if score else None,
            metric_error=score.metric_error if score else None,
            raw=raw,
            samples_sha256=samples_sha256(item) if raw else None,
        )

    def raw(self) -> bytes:
        """All of it, with its samples; of the device what it is, not where, or whose."""
        device = {name: value for name, value in self.facts.items() if name not in PRIVATE}
        return canonical({"measured_at": self.at, "target": _public(self.target), "device": device} | self.whole)


def from_run(run: FinishedRun, exported: Exported) -> Found | None:
    """The run's own measurement of the file; None when it measured another one.

    Raises :class:`EvidenceError` when the measurement is older than the file, is not what its samples make, or was changed since.
    """
    if run.micro is not None:
        return _from_arena(run, exported, run.micro)
    try:
        found = run.measured(exported.sha256)
    except InputError as error:
        raise not_believed(run, exported, error) from error
    if found is None or run.device is None:
        return None
    record, measurement = found
    check_record(run, exported, record, measurement)
    _check_age(record.at, exported, f"the measurement in {run.path}")
    return Found(measurement, record.at, str(run.inputs.target), run.device, {"measurement": measurement.to_json()})


def _from_arena(run: FinishedRun, exported: Exported, profile: Profile) -> Found | None:
    """The arena that TFLite Micro's interpreter needs for the file: all that is measured of a microcontroller."""
    found = run.arena(exported.sha256)
    if found is None:
        return None
    record, arena = found
    check_record(run, exported, record)
    _check_age(record.at, exported, f"the arena in {run.path}")
    measurement = arena_measurement(
        arena,
        name=exported.path.name,
        file_bytes=len(exported.content),
        file_sha256=exported.sha256,
        device=f"{profile.name} (by TFLite Micro's interpreter on the build machine)",
    )
    facts: DeviceFacts = {"arch": profile.cpu.architecture, "os": "none", "profile": profile.name}
    return Found(measurement, record.at, profile.name, facts, {"arena": asdict(arena), "file_sha256": exported.sha256})


def _public(target: str) -> str:
    """A target's name; of an address only how it is reached."""
    return target.partition(":")[0]


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def from_history(entry: Entry, exported: Exported, run: FinishedRun) -> Found:
    """A stored result of ``edgeprune bench``.

    Raises :class:`EvidenceError` when it is of another file, older than the file, or without raw samples.
    """
    what = f"result {entry.id} of the history"
    if entry.model_sha256 != exported.sha256:
        raise EvidenceError(
            f"{what} is of another file: {entry.model_name} with SHA-256 {entry.model_sha256[:16]}..., not {exported.path}",
            remedy=f"Measure the file that is shipped: edgeprune bench {exported.path} --target {entry.target}",
        )
    at = entry.measured_at.strftime("%Y-%m-%dT%H:%M:%SZ")
    _check_age(at, exported, what)
    if not entry.measurement.windows:
        raise EvidenceError(f"{what} has no raw samples that its figures can be computed from", remedy=MEASURE_AGAIN)
    identity = entry.measurement.device
    known = run.device is not None and identity == _identity(run.device)
    facts: DeviceFacts = run.device if known and run.device else {"arch": _architecture(identity)}
    return Found(entry.measurement, at, entry.target, facts, {"measurement": entry.measurement.to_json()})


def _identity(facts: DeviceFacts) -> str:
    """As :attr:`edgeprune.bench.DeviceInfo.identity`."""
    return f"{facts['board'] or facts['cpu']} ({facts['arch']}, {facts['cores']} cores, {facts['machine']})"


def _architecture(identity: str) -> str:
    return identity.rpartition("(")[2].partition(",")[0]


def _check_age(at: str, exported: Exported, what: str) -> None:
    if at < exported.written_at:
        when = f"of {at}" if at else "without a time"
        raise EvidenceError(
            f"{what} ({when}) is older than {exported.path}, written at {exported.written_at}",
            remedy=MEASURE_AGAIN,
        )


def compatibility_of(found: Sequence[Found], engine: str) -> Compatibility:
    """The devices that measurements speak for: of their architectures and kinds, with as much memory as the process took in all, and one of
    the runtimes, at least as new and of the same major version."""
    profiles = [str(one.facts.get("profile") or "") for one in found]
    boards = [str(one.facts.get("board") or "") for one in found]
    return Compatibility(
        architectures=_unique(one.facts["arch"] for one in found),
        min_memory_bytes=max(one.measurement.rss_peak_bytes for one in found),
        runtimes=_unique(
            Runtime(engine, one.measurement.runtime, _range(one.measurement.runtime, one.measurement.runtime_version)) for one in found
        ),
        boards=_unique(boards) if all(boards) and not all(profiles) else (),
        profiles=_unique(profiles) if all(profiles) else (),
    )


def _unique(values: Iterable[T]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(values))


def _range(runtime: str, version: str) -> str:
    if runtime == MICRO:  # its builds are numbered by date, and firmware holds its own
        return ""
    try:
        parsed = Version(version)
    except InvalidVersion:
        return ""
    return f">={parsed.base_version},<{parsed.major + 1}"
