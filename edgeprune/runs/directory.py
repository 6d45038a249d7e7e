"""A run on disk: everything needed to understand it, and to continue after a kill."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TypeVar, Unpack

from filelock import FileLock, Timeout

from edgeprune.decode import JsonObject, convert
from edgeprune.errors import InputError, RunError
from edgeprune.files import append_line, parse_json, write_atomically
from edgeprune.runs.document import NAME, RunDocument, read_document, update_document

SHARED = ("device", "pool", "dense", "score-dense")
FIRST_VALUES = "value-0-"
"""Records that are the same whatever the budget: the device, or the pool of them, the dense model's measurement and score, and (keys that
begin so) what the first objectives are made of."""


T = TypeVar("T")
_WORKING_DIRECTORY = "working-directory"


def working_directory(path: Path) -> Path | None:
    """The folder that a run was started in, which relative paths of it and of its recipe mean; None where it is not known, or gone."""
    try:
        found = Path((path / _WORKING_DIRECTORY).read_text())
    except (OSError, ValueError):
        return None
    return found if found.is_dir() else None


def how_to_continue(path: Path, recipe: object, command: str = "prune") -> str:
    """The command that continues the run or the sweep at ``path``, or the call where it was not started from a ``recipe`` file."""
    if recipe:
        return f"edgeprune {command} --resume {path}"
    return f"edgeprune.{'' if command == 'prune' else 'search.'}{command}(..., resume={str(path)!r})"


class RunDirectory:
    """``run.json`` (inputs, versions, state, result), ``measurements.jsonl`` (append-only, fsynced), ``plans/``, ``artifacts/``,
    ``log.txt``.

    Held by one process at a time: a lock file that its owner's death frees.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.artifacts, self.plans = path / "artifacts", path / "plans"
        self._records: dict[str, JsonObject] = {}
        self._times: dict[str, str] = {}
        try:
            for folder in (path, self.artifacts, self.plans):
                folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(path / "lock", timeout=0, thread_local=False)
            self._lock.acquire()
        except OSError as error:
            if not isinstance(error, Timeout):
                raise _unwritable(path, error) from error
            raise RunError(f"the run {path} is in use by another process", remedy="Wait until it ends, or stop it first.") from error
        self._read()

    @classmethod
    def create(cls, base: Path, name: str) -> RunDirectory:
        """A new directory ``base/<name>-<time>``."""
        stem = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
        path, number = base / stem, 2
        while True:
            try:
                path.mkdir(parents=True)
                (path / _WORKING_DIRECTORY).write_text(str(Path.cwd()))
                return cls(path)
            except FileExistsError:  # another run's, begun in the same second
                path, number = base / f"{stem}-{number}", number + 1
            except OSError as error:
                raise _unwritable(path, error) from error

    @classmethod
    def reopen(cls, path: Path) -> RunDirectory:
        """An existing one.  Raises :class:`RunError` when ``path`` is not a run directory."""
        if not (path / NAME).is_file():
            raise RunError(f"{path} is not a run directory: it has no {NAME}")
        return cls(path)

    @property
    def document(self) -> RunDocument:
        """What run.json holds; nothing of a new run.  Raises :class:`RunError` when it is damaged."""
        return read_document(self.path) or {}

    def update(self, **fields: Unpack[RunDocument]) -> None:
        """Change fields of run.json."""
        try:
            update_document(self.path, **fields)
        except OSError as error:
            raise _full(self.path / NAME, error) from error

    def write(self, name: str, content: str | bytes) -> Path:
        """Write a file whole or not at all."""
        path = self.path / name
        try:
            write_atomically(path, content)
        except OSError as error:
            raise _full(path, error) from error
        return path

    def log(self, line: str) -> None:
        """Add a line to the log."""
        try:
            with open(self.path / "log.txt", "a", encoding="utf-8") as file:
                file.write(f"{time.strftime('%H:%M:%S')} {line}\n")
        except OSError as error:
            raise _full(self.path / "log.txt", error) from error

    def recall(self, key: str) -> JsonObject | None:
        """What was recorded under ``key`` by this run, before or after a restart."""
        return self._records.get(key)

    def recall_as(self, key: str, kind: type[T]) -> T | None:
        """:meth:`recall` as a value of ``kind``.  Raises :class:`RunError` when the record is of another form."""
        return self.recall_by(key, lambda known: convert(known, kind, finite=False))

    def recall_by(self, key: str, decode: Callable[[JsonObject], T]) -> T | None:
        """:meth:`recall`, decoded.  Raises :class:`RunError` that names the record when ``decode`` raises :class:`InputError` or
        :class:`ValueError`."""
        known = self._records.get(key)
        if known is None:
            return None
        try:
            return decode(known)
        except (InputError, ValueError) as error:
            raise RunError(
                f"the record {key} in {self.path / 'measurements.jsonl'} is damaged: {str(error).partition(chr(10))[0]}",
                remedy="Remove that line, and it is computed again; or start a new run.",
            ) from error

    def recorded_at(self, key: str) -> str | None:
        """When that was recorded (UTC); None when it was not, or by a version that kept no times."""
        return self._times.get(key)

    def record(self, key: str, value: Mapping[str, object]) -> None:
        """Keep ``value`` for good, with the time: appended, flushed to the disk."""
        self._records[key] = dict(value)
        at = self._times[key] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        try:
            append_line(self.path / "measurements.jsonl", json.dumps({"key": key, "value": value, "at": at}))
        except OSError as error:
            raise _full(self.path / "measurements.jsonl", error) from error

    def adopt(self, other: Path) -> None:
        """Take over from another run of the same job, its ``measurements.jsonl``, what does not depend on the budget."""
        for line in other.read_bytes().split(b"\n"):
            try:
                key, value, _ = parse_record(line)
            except ValueError:
                continue  # its last line may be cut off
            if (key in SHARED or key.startswith(FIRST_VALUES)) and key not in self._records:
                self.record(key, value)

    def close(self) -> None:
        """Let others have the directory."""
        self._lock.release()

    def _read(self) -> None:
        path = self.path / "measurements.jsonl"
        if not path.exists():
            return
        lines = path.read_bytes().split(b"\n")
        whole = 0
        for number, line in enumerate(lines[:-1]):  # what has no newline was cut off by a kill
            try:
                key, value, at = parse_record(line)
            except ValueError as error:
                raise RunError(f"{path} is damaged at line {number + 1}: {error}", remedy="Restore it, or start a new run.") from error
            self._records[key] = value
            if at:
                self._times[key] = at
            whole += len(line) + 1
        if lines[-1]:
            with open(path, "r+b") as file:
                file.truncate(whole)


def parse_record(line: bytes) -> tuple[str, JsonObject, str]:
    """A line of measurements.jsonl: its key, its value, and when it was written (UTC; empty where a former version wrote no time).

    Raises :class:`ValueError`.
    """
    try:
        entry = convert(parse_json(line), _Line, finite=False)
    except ValueError as error:
        raise ValueError(f"a line that is not a record: {error}") from error
    return entry.key, entry.value, entry.at


@dataclass(frozen=True)
class _Line:
    key: str
    value: JsonObject
    at: str = ""


def record_sha256(value: Mapping[str, object]) -> str:
    """The SHA-256 of a record's value, which shows whether the value was changed since; the order of its fields does not count."""
    return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _unwritable(path: Path, error: OSError) -> RunError:
    return RunError(
        f"the run directory {path} cannot be written: {error.strerror}",
        remedy="Free some space there, allow access to it, or name another folder.",
    )


def _full(path: Path, error: OSError) -> RunError:
    return RunError(f"{path} cannot be written: {error.strerror}", remedy="Free some space there, or allow access to it.")
