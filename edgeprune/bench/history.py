"""Every result that was measured, kept in a database."""

from __future__ import annotations

import hashlib
import logging
import math
import os
import re
import struct
import subprocess
import zlib
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa

from edgeprune.bench.results import Artifact, Measurement, Ratio, Verdict, with_current_names
from edgeprune.bench.run import Report
from edgeprune.bench.schema import default_url, open_engine, results, shown, telling
from edgeprune.decode import JsonObject, convert
from edgeprune.errors import HistoryError, InputError
from edgeprune.files import parse_json

_log = logging.getLogger(__name__)

OFF = "off"
_LATEST = re.compile(r"latest(?:~([0-9]{1,18}))?")  # 18 digits: what a database's 64 bits hold
_ID = re.compile(r"[0-9]{1,18}")
_MOST = 2**62  # of rows: what a database holds
_GIT_LIMIT_S = 5


@dataclass(frozen=True)
class Entry:
    """One stored result.

    ``measured_at``: UTC.  ``target``: the name or address that was asked for; the device itself is in ``measurement``.  ``commit``: of
    the repository that the model or the working folder is in, with ``-dirty`` when files had changed.  ``ratio``: over a baseline that was
    measured in turns with it.
    """

    id: int
    measured_at: datetime
    model_name: str
    model_sha256: str
    target: str
    measurement: Measurement
    commit: str | None = None
    label: str | None = None
    ratio: Ratio | None = None

    def to_json(self) -> JsonObject:
        """As plain JSON values."""
        return asdict(self) | {"measured_at": self.measured_at.isoformat() + "Z", "measurement": self.measurement.to_json()}


@dataclass(frozen=True)
class StoredRatio:
    """A :class:`Ratio` as the database holds it: what is not finite is null."""

    name: str
    ratio: float | None
    low: float | None
    high: float | None
    verdict: Verdict
    log_ratios: tuple[float, ...] = ()


@dataclass(frozen=True)
class _Circumstances:
    cpus: tuple[int, ...] = ()
    unreliable: bool = False


class History:
    """The database of results at ``url`` (any SQLAlchemy address); by default SQLite in the user's data folder.

    Safe with several writers at once.  Opening raises :class:`HistoryError`, and so does every method when the database fails.
    """

    def __init__(self, url: str | None = None) -> None:
        self._engine = open_engine(url or default_url())

    @property
    def address(self) -> str:
        """Where it is, without a password."""
        return shown(self._engine.url)

    def add(
        self, report: Report, target: str, model: Artifact, against: Artifact | None = None, label: str | None = None
    ) -> tuple[int, ...]:
        """Store what :func:`~edgeprune.bench.run.bench` found on a target for these files; the new ids, a comparison's baseline first.

        Raises :class:`InputError` for a ``label`` that :func:`check_label` refuses.
        """
        if label is not None:
            check_label(label)
        commit = git_commit(model.path)
        common = {"target": target, "git_commit": commit, "label": label, "measured_at": datetime.now(UTC).replace(tzinfo=None)}
        rows = [_row(item, model, None) | common for item in report.measurements]
        for comparison in report.comparisons:
            assert against is not None
            base, candidate = comparison.measurements
            rows.append(_row(base, against, None) | common | {"label": None})
            rows.append(_row(candidate, model, comparison.ratios[0]) | common)
        with telling(self._engine), self._engine.begin() as connection:
            return tuple(int(connection.scalar(sa.insert(results).values(**row).returning(results.c.id)) or 0) for row in rows)

    def entries(
        self,
        model: str | None = None,
        target: str | None = None,
        *,
        device: str | None = None,
        threads: int | None = None,
        label: str | None = None,
        limit: int = 20,
        skip: int = 0,
    ) -> list[Entry]:
        """The newest results first; of one model (its file name, or a prefix of its SHA-256), target, device, thread count or label."""
        query = self._query().order_by(results.c.id.desc()).limit(min(limit, _MOST)).offset(min(skip, _MOST))
        if model is not None:
            query = query.where((results.c.model_name == Path(model).name) | results.c.model_sha256.startswith(model, autoescape=True))
        wanted = {"target": target, "device": device, "threads": threads, "label": label}
        query = query.where(*(results.c[name] == value for name, value in wanted.items() if value is not None))
        return self._select(query)

    @staticmethod
    def _query() -> sa.Select[Any]:
        """All columns; what is JSON, and the time, as text, so that a damaged row is that row's matter alone."""
        texts = (results.c.ratio, results.c.result, results.c.measured_at)
        plain = [column for column in results.c if column not in set(texts)]
        return sa.select(*plain, *(sa.cast(column, sa.Text).label(column.name) for column in texts))

    def _select(self, query: sa.Select[Any]) -> list[Entry]:
        """The entries; damaged ones are skipped and named in the log, and where all are damaged the first one's error is raised."""
        with telling(self._engine), self._engine.connect() as connection:
            rows = connection.execute(query).mappings().all()
        found, damaged = list[Entry](), list[HistoryError]()
        for row in rows:
            try:
                found.append(_entry(row))
            except HistoryError as error:
                _log.warning("%s It is left out.", error.message)
                damaged.append(error)
        if damaged and not found:
            raise damaged[0]
        return found

    def find(self, reference: str, *, model: str | None = None, device: str | None = None, threads: int | None = None) -> Entry:
        """One result: by its id, by its label (the newest), ``latest``, or ``latest~N`` for the N-th before.

        A label is looked up among results of ``device`` and ``threads``, ``latest`` also of ``model``, where these are given.  Raises
        :class:`InputError` when there is none.
        """
        found: list[Entry] = []
        if _ID.fullmatch(reference):
            found = self._select(self._query().where(results.c.id == int(reference)))
        elif match := _LATEST.fullmatch(reference):
            found = self.entries(model, device=device, threads=threads, limit=1, skip=int(match[1] or 0))
        if found := found or self.entries(device=device, threads=threads, label=reference, limit=1):
            return found[0]
        kind = {"model": model, "device": device, "threads": threads}
        among = ", ".join(f"{name} {value}" for name, value in kind.items() if value is not None)
        raise InputError(
            f"the history has no result {reference!r}" + (f" of {among}" if among else ""), remedy="edgeprune history lists the results."
        )

    def repeats(self, like: Measurement, limit: int = 500) -> list[list[float]]:
        """Latencies in ms of the newest results in the same circumstances, a list for each model.

        The circumstances: device, runtime, threads, processors, governor, clock limit.  What was measured while the device was throttled
        to the end is left out.
        """
        c = results.c
        same = (c.device, c.runtime, c.runtime_version, c.threads)
        query = sa.select(c.model_sha256, c.latency_ms, sa.cast(c.result, sa.Text)).order_by(c.id.desc()).limit(limit)
        query = query.where(
            *(column == getattr(like, column.name) for column in same),
            *(column.is_not_distinct_from(like.before.get(column.name)) for column in (c.governor, c.limit_mhz)),
        )
        found: dict[str, list[float]] = {}
        with telling(self._engine), self._engine.connect() as connection:
            for model, latency_ms, text in connection.execute(query):
                with suppress(ValueError):  # a damaged one teaches nothing
                    result = convert(with_current_names(parse_json(text)), _Circumstances)
                    if result.cpus == like.cpus and not result.unreliable and convert(latency_ms, float) > 0:
                        found.setdefault(model, []).append(latency_ms)
        return list(found.values())

    def close(self) -> None:
        """Close its connections; a second call is not an error."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def history_url(given: str | None = None) -> str | None:
    """Where results are kept: ``given``, else ``EDGEPRUNE_HISTORY``, else the default; None when that says ``off``."""
    url = given or os.environ.get("EDGEPRUNE_HISTORY") or default_url()
    return None if url.lower() == OFF else url


def check_label(label: str) -> None:
    """Raise :class:`InputError` for a label that a reference to a result would take for an id, ``latest`` or a file."""
    if not label or label.isdigit() or label.startswith("latest") or label.endswith(".json") or "/" in label:
        raise InputError(
            f"{label!r} cannot be a label: it would name another result",
            remedy="Use a label such as v1.2: not only digits, no latest at its beginning, no .json at its end, no /.",
        )


def git_commit(path: Path) -> str | None:
    """The commit of the repository that holds ``path``, or of the working folder's; None where there is none, or no git."""
    for folder in dict.fromkeys((path.resolve().parent, Path.cwd())):
        try:
            if head := _git(folder, "rev-parse", "HEAD"):
                return head[0] + ("-dirty" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
        except (OSError, subprocess.TimeoutExpired):
            return None
    return None


def _git(folder: Path, *arguments: str) -> list[str]:
    command = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_GIT_LIMIT_S, check=False)
    return done.stdout.splitlines() if done.returncode == 0 else []


def _row(item: Measurement, artifact: Artifact, ratio: Ratio | None) -> JsonObject:
    result = item.to_json()
    del result["samples_ns"]
    same = ("device", "runtime", "runtime_version", "threads", "latency_ms", "low_ms", "high_ms", "peak_bytes", "file_bytes", "energy_mj")
    return {
        "model_name": artifact.path.name,
        "model_sha256": item.file_sha256 or hashlib.sha256(artifact.path.read_bytes()).hexdigest(),
        "governor": item.before.get("governor"),
        "limit_mhz": item.before.get("limit_mhz"),
        "ratio": None if ratio is None else _finite(asdict(ratio)),
        "result": _finite(result),
        "samples_ns": zlib.compress(struct.pack(f"<{len(item.samples_ns)}q", *item.samples_ns)),
        **{name: getattr(item, name) for name in same},
    }


def _finite(value: Any) -> Any:
    """JSON has no infinity: PostgreSQL refuses what is not finite, it becomes null."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _ratio(stored: Any) -> Ratio:
    found = convert(stored, StoredRatio)
    ratio, low, high = (math.nan if value is None else value for value in (found.ratio, found.low, found.high))
    return Ratio(found.name, ratio, low, high, found.verdict, found.log_ratios)


@dataclass(frozen=True)
class _About:
    """The plain columns of a row, which a database may hold in other types than were asked for."""

    id: int
    measured_at: str
    model_name: str
    model_sha256: str
    target: str
    git_commit: str | None
    label: str | None


def _entry(row: Any) -> Entry:
    try:
        packed = zlib.decompress(row["samples_ns"])
        samples = struct.unpack(f"<{len(packed) // 8}q", packed)
        measurement = Measurement.from_json(convert(parse_json(row["result"]), JsonObject) | {"samples_ns": list(samples)})
        stored = None if row["ratio"] is None else parse_json(row["ratio"])
        ratio = None if stored is None else _ratio(stored)
        about = convert({name: row[name] for name in _About.__dataclass_fields__}, _About)
        measured_at = datetime.fromisoformat(about.measured_at)
    except (zlib.error, struct.error, TypeError, ValueError, InputError) as error:
        raise HistoryError(f"result {row['id']} of the history is damaged: {error}", remedy="Remove it from the database.") from error
    model = (about.model_name, about.model_sha256)
    return Entry(about.id, measured_at, *model, about.target, measurement, about.git_commit, about.label, ratio)
