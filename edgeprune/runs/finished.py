"""A finished run as a release needs it: its files, its measurements with their times, and what the task said about its data."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

from edgeprune.bench import Measurement
from edgeprune.bench.info import DeviceFacts, facts_of
from edgeprune.decode import JsonObject, convert
from edgeprune.errors import EvidenceError, GateError, RunError
from edgeprune.micro import Arena
from edgeprune.profile import Profile
from edgeprune.profile import load as load_profile
from edgeprune.runs.directory import how_to_continue, parse_record
from edgeprune.runs.document import read_document, read_inputs
from edgeprune.runs.summary import ArtifactSummary, RunSummary, read_summary

T = TypeVar("T")


@dataclass(frozen=True)
class Exported:
    """One exported file, checked against its SHA-256 in run.json. ``written_at``: UTC. ``record_sha256``: of the record of its
    measurement, where the run kept it."""

    format: str
    path: Path
    content: bytes
    sha256: str
    written_at: str
    record_sha256: str | None = None


@dataclass(frozen=True)
class Record:
    """A line of measurements.jsonl: when (UTC; empty where a former version wrote none), under which key, and what."""

    at: str
    key: str
    value: JsonObject


@dataclass(frozen=True)
class Score:
    """A file's value of the task's metric, the SHA-256 of the recipe that said so (None where there was none), and the standard error over
    the validation samples (None where it is not known)."""

    metric: float
    metric_name: str
    recipe_sha256: str | None = None
    metric_error: float | None = None


@dataclass(frozen=True)
class RunInputs:
    """What a run was asked, as far as a release needs it: the device or the profile that it was for, and the recipe of its task."""

    target: str | None = None
    profile: str | None = None
    recipe: str | None = None


@dataclass(frozen=True)
class FinishedRun:
    """``inputs``: as in run.json; ``result``: its summary. ``device``: the facts of the device; None when the run was for a profile."""

    path: Path
    inputs: RunInputs
    result: RunSummary
    exported: tuple[Exported, ...]
    records: tuple[Record, ...]

    @property
    def device(self) -> DeviceFacts | None:
        """The device as it was probed.  Raises :class:`InputError` when its record is damaged."""
        return next((facts_of(record.value) for record in self.records if record.key == "device"), None)

    @property
    def micro(self) -> Profile | None:
        """The microcontroller's profile that the run was for; None when it was for something else."""
        name = self.inputs.profile
        profile = load_profile(name) if name and self.device is None else None
        return profile if profile is not None and profile.micro else None

    @property
    def metric_name(self) -> str:
        """What the task's metric is called."""
        return str(self.result.metric_name)

    @property
    def higher_is_better(self) -> bool:
        """Whether more of the metric is better."""
        return self.result.higher_is_better

    def measured(self, digest: str) -> tuple[Record, Measurement] | None:
        """The newest measurement of the file of this SHA-256.  Raises :class:`InputError` when it cannot be true."""
        for record in reversed(self.records):
            value = record.value.get("model", record.value)
            if isinstance(value, dict) and value.get("file_sha256") == digest:
                return record, Measurement.from_json(value)
        return None

    def arena(self, digest: str) -> tuple[Record, Arena] | None:
        """The newest measurement of a microcontroller's arena for the file of this SHA-256."""
        for record in reversed(self.records):
            if "arena" in record.value and record.value.get("sha256") == digest:
                return record, decoded(record.value["arena"], Arena, f"the arena in {self.path}")
        return None


def read_run(path: str | Path) -> FinishedRun:
    """Read a run directory; of a search of several runs that of the best.

    Raises :class:`RunError`: it is not a run, not finished, or of a version that kept no hashes; :class:`GateError` when it missed a
    budget;
    :class:`EvidenceError` when an exported file is missing or has changed since.
    """
    path = Path(path)
    inputs = decoded(read_inputs(path), RunInputs, f"the inputs in {path / 'run.json'}")
    if best := (read_document(path) or {}).get("best"):  # of a search of several runs
        return read_run(path / best)
    result = read_summary(path)
    if result is None:
        raise RunError(f"the run {path} is not finished", remedy=f"Continue it: {how_to_continue(path, inputs.recipe)}")
    if missed := [f"{kind} {result.budget[kind].text}" for kind in result.missed]:
        raise GateError(f"the run {path} was not found to meet its budget: {', '.join(missed)}", remedy="Prune for one that can be met.")
    if result.artifacts is None:
        raise RunError(f"the run {path} kept no hashes of its files: an older edgeprune made it", remedy="Run it again.")
    exported = tuple(_exported(path, name, item) for name, item in sorted(result.artifacts.items()))
    return FinishedRun(path, inputs, result, exported, _records(path / "measurements.jsonl"))


def decoded(value: object, kind: type[T], what: str) -> T:
    """``value`` as ``kind``.  Raises :class:`RunError` naming ``what``."""
    try:
        return convert(value, kind)
    except ValueError as error:
        raise RunError(f"{what} cannot be read: {error}", remedy="Restore it, or run again.") from error


def _exported(run: Path, name: str, item: ArtifactSummary) -> Exported:
    file = run / "artifacts" / item.file
    try:
        content = file.read_bytes()
    except OSError as error:
        raise EvidenceError(f"{file} cannot be read: {error.strerror}", remedy="Restore it, or run again.") from error
    digest = sha256(content).hexdigest()
    if digest != item.sha256:
        raise EvidenceError(
            f"{file} is not the file that was measured: its SHA-256 is {digest[:16]}..., the run's {item.sha256[:16]}...",
            remedy="Restore it, or prune and measure again: the evidence of a release is of the very file that it ships.",
        )
    return Exported(name, file, content, digest, item.written_at, item.record_sha256)


def _records(path: Path) -> tuple[Record, ...]:
    try:
        lines = path.read_bytes().split(b"\n")[:-1]  # a last line without an end was cut off while it was written
    except FileNotFoundError:
        return ()
    try:
        return tuple(Record(at, key, value) for key, value, at in map(parse_record, lines))
    except ValueError as error:
        raise RunError(f"{path} is damaged: {error}", remedy="Restore it, or run again.") from error
