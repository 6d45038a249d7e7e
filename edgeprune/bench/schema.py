"""The tables of the history, and opening the database that holds them: SQLite, PostgreSQL, or what else SQLAlchemy speaks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import platformdirs
import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError, SQLAlchemyError

from edgeprune.errors import HistoryError

VERSION = 1
_LOCK_TIMEOUT_S = 10
_CONNECT_TIMEOUT_S = 10
_ATTEMPTS = 5

metadata = sa.MetaData()
_meta = sa.Table("edgeprune_meta", metadata, sa.Column("key", sa.String(64), primary_key=True), sa.Column("value", sa.String(64)))
results = sa.Table(
    "edgeprune_results",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("measured_at", sa.DateTime, nullable=False),  # UTC
    sa.Column("model_name", sa.String(255), nullable=False, index=True),
    sa.Column("model_sha256", sa.String(64), nullable=False, index=True),
    sa.Column("target", sa.String(255), nullable=False),  # the name or address that was asked for
    sa.Column("device", sa.String(255), nullable=False, index=True),  # its identity
    sa.Column("runtime", sa.String(64), nullable=False),
    sa.Column("runtime_version", sa.String(64), nullable=False),
    sa.Column("threads", sa.Integer, nullable=False),
    sa.Column("governor", sa.String(32)),
    sa.Column("limit_mhz", sa.Float),
    sa.Column("git_commit", sa.String(48)),  # with -dirty when files had changed
    sa.Column("label", sa.String(255), index=True),
    sa.Column("latency_ms", sa.Float, nullable=False),
    sa.Column("low_ms", sa.Float, nullable=False),
    sa.Column("high_ms", sa.Float, nullable=False),
    sa.Column("peak_bytes", sa.BigInteger, nullable=False),
    sa.Column("file_bytes", sa.BigInteger, nullable=False),
    sa.Column("energy_mj", sa.Float),
    sa.Column("ratio", sa.JSON),  # over a baseline that was measured in turns with it
    sa.Column("result", sa.JSON, nullable=False),  # all of the measurement but its samples
    sa.Column("samples_ns", sa.LargeBinary, nullable=False),  # zlib of little-endian 64-bit integers
)


def default_url() -> str:
    """SQLite in the user's data folder."""
    return f"sqlite:///{Path(platformdirs.user_data_dir('edgeprune')) / 'history.db'}"


def _parse(text: str) -> sa.URL:
    try:
        url = sa.make_url(text)
    except ArgumentError:
        raise HistoryError(
            f"{text!r} is not a database address", remedy="Write one such as sqlite:///results.db or postgresql://user@host/name, or off."
        ) from None
    return url.set(drivername="postgresql+psycopg") if url.drivername in ("postgresql", "postgres") else url


def check_address(text: str) -> None:
    """Raise :class:`HistoryError` for a text that is not the address of a database, whether or not there is one."""
    _parse(text)


def open_engine(text: str) -> sa.Engine:
    """Open a database and make sure of its tables.

    Raises :class:`HistoryError` when there is no driver for it, when it cannot be reached, read or written, or is of a newer version.
    """
    url = _parse(text)
    if url.database and text == default_url():
        with _named_errors(url):
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    try:
        engine = sa.create_engine(url, connect_args=_timeouts(url))
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        extra = "pip install 'edgeprune[postgres]'" if "psycopg" in url.drivername else "Install its Python driver."
        raise HistoryError(f"there is no driver for {shown(url)}: {error}", remedy=extra) from error
    with telling(engine):
        _prepare(engine)
    return engine


def _timeouts(url: sa.URL) -> dict[str, Any]:
    """How long to wait for a lock, or a server; what the address says goes first."""
    known = {"sqlite": {"timeout": _LOCK_TIMEOUT_S}, "postgresql": {"connect_timeout": _CONNECT_TIMEOUT_S}}
    return {name: value for name, value in known.get(url.get_backend_name(), {}).items() if name not in url.query}


def shown(url: sa.URL) -> str:
    """An address without its password."""
    return url.render_as_string(hide_password=True)


@contextmanager
def _named_errors(url: sa.URL) -> Iterator[None]:
    try:
        yield
    except (SQLAlchemyError, OSError, ValueError) as error:
        cause = str(error.orig) if isinstance(error, DBAPIError) else str(error)
        lines = cause.strip().splitlines() or [type(error).__name__]
        raise HistoryError(
            f"the history {shown(url)} cannot be used: {lines[0]}",
            remedy="Repair or move it; --history URL (or EDGEPRUNE_HISTORY) names another, and off works without one.",
        ) from error


def telling(engine: sa.Engine) -> Any:
    """A context in which the database's errors become :class:`HistoryError` that names it."""
    return _named_errors(engine.url)


def _prepare(engine: sa.Engine) -> None:
    """Make the tables unless they are there; several processes may do so at once."""
    for attempt in range(_ATTEMPTS):
        try:
            found = _version(engine)
            if found is None:
                _create(engine)
                found = _version(engine)
            break
        except DBAPIError:  # another made one of them between our look and our making
            if attempt == _ATTEMPTS - 1:
                raise
    if found != str(VERSION):
        raise HistoryError(
            f"the history {shown(engine.url)} has the layout {found}, and {VERSION} was expected",
            remedy="Use the version of edgeprune that wrote it, or another database (--history URL).",
        )


def _version(engine: sa.Engine) -> str | None:
    if not sa.inspect(engine).has_table(_meta.name):
        return None
    with engine.connect() as connection:
        found: str | None = connection.scalar(sa.select(_meta.c.value).where(_meta.c.key == "version"))
        return found


def _create(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        metadata.create_all(connection)
    try:
        with engine.begin() as connection:
            connection.execute(sa.insert(_meta).values(key="version", value=str(VERSION)))
    except IntegrityError:
        pass  # another was first
