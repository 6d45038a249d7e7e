"""The history of results: what is stored comes back, for several writers, in SQLite and PostgreSQL, and its failures are told."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from measured import PLAIN, STATE, report

from edgeprune.bench import Artifact, Comparison, Measurement, Ratio
from edgeprune.bench.history import History, git_commit, history_url
from edgeprune.errors import HistoryError, InputError
from edgeprune.testing.postgres import PostgresServer, find_postgres


@pytest.fixture
def model(tmp_path: Path) -> Artifact:
    path = tmp_path / "m.tflite"
    path.write_bytes(b"a model")
    return Artifact(path)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of a PostgreSQL server of our own, on loopback."""
    found = find_postgres()
    if found is None:
        pytest.skip("PostgreSQL is not installed")
    pytest.importorskip("psycopg")
    with PostgresServer(found) as server:
        yield server.url


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.device)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/results.db"
    return str(request.getfixturevalue("postgres")).rpartition("/")[0] + "/" + new_database(request)


def new_database(request: pytest.FixtureRequest) -> str:
    import sqlalchemy as sa

    name = f"test_{abs(hash(request.node.nodeid))}"
    engine = sa.create_engine(request.getfixturevalue("postgres"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return name


def test_a_result_comes_back_as_it_was(url: str, model: Artifact) -> None:
    with History(url) as history:
        (number,) = history.add(report(PLAIN), "pi5", model, label="v1")
        entry = history.find(str(number))
    assert entry.measurement == PLAIN
    assert (entry.id, entry.target, entry.label, entry.model_name) == (number, "pi5", "v1", "m.tflite")
    assert entry.model_sha256 == hashlib.sha256(b"a model").hexdigest()
    assert timedelta() <= datetime.now(UTC).replace(tzinfo=None) - entry.measured_at < timedelta(minutes=1)
    assert json.loads(json.dumps(entry.to_json()))["measurement"]["latency_ms"] == 1.0


def test_a_comparison_is_stored_with_its_ratio(url: str, model: Artifact, tmp_path: Path) -> None:
    (tmp_path / "old.tflite").write_bytes(b"old")
    found = Comparison((replace(PLAIN, name="old"), PLAIN), (Ratio.judge("m.tflite", 0.5, 0.49, math.inf),))
    with History(url) as history:
        base, candidate = history.add(report(comparisons=(found,)), "pi5", model, Artifact(tmp_path / "old.tflite"), label="new")
        assert (history.find(str(base)).ratio, history.find(str(base)).label) == (None, None)
        assert history.find(str(base)).model_name == "old.tflite"
        ratio = history.find(str(candidate)).ratio
    assert ratio is not None
    assert (ratio.ratio, ratio.low, ratio.verdict) == (0.5, 0.49, "inconclusive")
    assert math.isnan(ratio.high)


def test_results_are_found_by_id_latest_and_label(url: str, model: Artifact, tmp_path: Path) -> None:
    other = Artifact(tmp_path / "other.tflite")
    other.path.write_bytes(b"other")
    with History(url) as history:
        first = history.add(report(PLAIN), "pi5", model, label="v1")[0]
        second = history.add(report(PLAIN), "pi5", model, label="v1")[0]
        third = history.add(report(replace(PLAIN, device="another", threads=4)), "pi4", other)[0]
        assert history.find("latest").id == third
        assert history.find("latest~2").id == first
        assert history.find("v1").id == second
        assert history.find("latest", model="m.tflite").id == second
        assert history.find("latest~1", device=PLAIN.device, threads=2).id == first
        for missing in ("v2", "latest~3", str(third + 1)):
            with pytest.raises(InputError, match=missing):
                history.find(missing)
        for odd in ("²", "٣", "9" * 30, "latest~" + "9" * 30):
            with pytest.raises(InputError, match="has no result"):
                history.find(odd)
        with pytest.raises(InputError, match="threads 4"):
            history.find("v1", threads=4)


def test_the_newest_come_first_and_can_be_chosen(url: str, model: Artifact, tmp_path: Path) -> None:
    other = Artifact(tmp_path / "other.tflite")
    other.path.write_bytes(b"other")
    with History(url) as history:
        numbers = [history.add(report(PLAIN), "pi5" if item is model else "pi4", item)[0] for item in (model, other, model)]
        assert [entry.id for entry in history.entries()] == numbers[::-1]
        assert [entry.id for entry in history.entries(limit=1)] == numbers[2:]
        assert [entry.id for entry in history.entries("other.tflite")] == [numbers[1]]
        assert [entry.id for entry in history.entries(str(other.path))] == [numbers[1]]
        assert [entry.id for entry in history.entries(hashlib.sha256(b"other").hexdigest()[:8])] == [numbers[1]]
        assert [entry.id for entry in history.entries(target="pi4")] == [numbers[1]]
        assert history.entries("m%") == []


def test_repeats_are_of_the_same_circumstances(url: str, model: Artifact, tmp_path: Path) -> None:
    other = Artifact(tmp_path / "other.tflite")
    other.path.write_bytes(b"other")
    limited = {"before": STATE | {"limit_mhz": 600.0}}
    with History(url) as history:
        for item, latency_ms in ((model, 1.0), (other, 5.0), (model, 2.0)):
            history.add(report(replace(PLAIN, latency_ms=latency_ms)), "pi5", item)
        for change in (
            {"threads": 4},
            {"device": "d"},
            {"runtime_version": "3"},
            {"before": {"governor": "ondemand"}},
            {"before": {}},
            limited,
        ):
            history.add(report(replace(PLAIN, **change)), "pi5", model)
        history.add(report(replace(PLAIN, latency_ms=9.0, unreliable=True)), "pi5", model)
        history.add(report(replace(PLAIN, latency_ms=3.0, cpus=(0, 1))), "pi5", model)
        assert sorted(history.repeats(PLAIN)) == [[2.0, 1.0], [5.0]]
        assert history.repeats(replace(PLAIN, cpus=(0, 1))) == [[3.0]]
        assert history.repeats(replace(PLAIN, before={})) == [[1.0]]


def test_results_stored_by_an_earlier_version_are_read_with_the_names_of_today() -> None:
    stored = PLAIN.to_json()
    stored |= {"held_back": stored.pop("throttled") or ["heat"], "spoilt": not stored.pop("unreliable")}
    read = Measurement.from_json(stored)
    assert (read.throttled, read.unreliable) == (("heat",), True)
    assert read.to_json() | {"throttled": [], "unreliable": False} == PLAIN.to_json()


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from measured import PLAIN, report
from edgeprune.bench import Artifact
from edgeprune.bench.history import History
sys.stdin.read()  # all begin together
for _ in range(10):
    with History(sys.argv[2]) as history:
        history.add(report(PLAIN), "pi5", Artifact(Path(sys.argv[3])))
"""


def test_several_writers_at_once_lose_nothing_and_make_one_schema(url: str, model: Artifact) -> None:
    command = [sys.executable, "-c", WRITER, str(Path(__file__).parents[1]), url, str(model.path)]
    writers = [subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(3)]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.close()
        writer.stdin = None
    errors = [writer.communicate(timeout=120)[1].decode() for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0, 0], errors
    with History(url) as history:
        entries = history.entries(limit=100)
    assert len({entry.id for entry in entries}) == 30
    assert all(entry.measurement == PLAIN for entry in entries)


@pytest.mark.parametrize("label", ["1234", "latest", "latest~2", "latest-good", "v1.json", "feature/x", ""])
def test_a_label_that_would_name_another_result_is_refused(tmp_path: Path, model: Artifact, label: str) -> None:
    with History(f"sqlite:///{tmp_path}/a.db") as history:
        with pytest.raises(InputError, match="cannot be a label"):
            history.add(report(PLAIN), "pi5", model, label=label)
        assert history.entries() == []


def test_a_file_that_is_not_a_database(tmp_path: Path) -> None:
    (tmp_path / "bad.db").write_bytes(b"this is not a database, but is long enough to be looked at" * 100)
    with pytest.raises(HistoryError, match=r"bad\.db cannot be used: file is not a database"):
        History(f"sqlite:///{tmp_path}/bad.db")


def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match=r"missing/a\.db cannot be used"):
        History(f"sqlite:///{tmp_path}/missing/a.db")


def test_a_database_that_someone_keeps_locked(tmp_path: Path, model: Artifact) -> None:
    History(f"sqlite:///{tmp_path}/a.db").close()
    with History(f"sqlite:///{tmp_path}/a.db?timeout=0.1") as history:
        holder = sqlite3.connect(tmp_path / "a.db")
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(HistoryError, match="database is locked"):
            history.add(report(PLAIN), "pi5", model)
        holder.close()
        assert history.add(report(PLAIN), "pi5", model)


def test_a_database_that_cannot_be_written(tmp_path: Path, model: Artifact) -> None:
    History(f"sqlite:///{tmp_path}/a.db").close()
    with History(f"sqlite:///file:{tmp_path}/a.db?mode=ro&uri=true") as history, pytest.raises(HistoryError, match="readonly"):
        history.add(report(PLAIN), "pi5", model)


def test_a_layout_of_another_version(tmp_path: Path) -> None:
    History(f"sqlite:///{tmp_path}/a.db").close()
    with sqlite3.connect(tmp_path / "a.db") as connection:
        connection.execute("UPDATE edgeprune_meta SET value = '99'")
    connection.close()
    with pytest.raises(HistoryError, match="layout 99, and 1 was expected"):
        History(f"sqlite:///{tmp_path}/a.db")


@pytest.mark.parametrize("column", ["samples_ns = 'xx'", "result = '{}'", "result = 'no json'", "ratio = '{\"speed\": 1}'"])
def test_a_damaged_row_is_named(tmp_path: Path, model: Artifact, column: str) -> None:
    with History(f"sqlite:///{tmp_path}/a.db") as history:
        history.add(report(PLAIN), "pi5", model)
        with sqlite3.connect(tmp_path / "a.db") as connection:
            connection.execute(f"UPDATE edgeprune_results SET {column}")
        connection.close()
        with pytest.raises(HistoryError, match="history"):
            history.find("latest")


@pytest.mark.parametrize(
    "column",
    ["measured_at = 'yesterday'", "target = x'ff'", "model_sha256 = 5", "latency_ms = 'fast'", "samples_ns = 1", "result = '[' || result"],
)
def test_a_damaged_row_costs_only_itself(tmp_path: Path, model: Artifact, column: str) -> None:
    with History(f"sqlite:///{tmp_path}/a.db") as history:
        for label in ("old", "damaged", "new"):
            history.add(report(PLAIN), "pi5", model, label=label)
        with sqlite3.connect(tmp_path / "a.db") as connection:
            connection.execute(f"UPDATE edgeprune_results SET {column} WHERE label = 'damaged'")
        connection.close()
        assert {"old", "new"} <= {entry.label for entry in history.entries()}
        assert history.find("old").measurement == PLAIN
        assert history.repeats(PLAIN)


@pytest.mark.parametrize(("text", "message"), [("results.db", "is not a database address"), ("nosql://x/y", "no driver")])
def test_a_wrong_address(text: str, message: str) -> None:
    with pytest.raises(HistoryError, match=message):
        History(text)


def test_a_server_that_is_not_there_is_named_without_its_password() -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(HistoryError, match=r"127\.0\.0\.1:1") as caught:
        History("postgresql://me:secret@127.0.0.1:1/results")
    assert "secret" not in str(caught.value)


def test_where_results_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.delenv("EDGEPRUNE_HISTORY", raising=False)
    assert history_url() == f"sqlite:///{tmp_path}/edgeprune/history.db"
    with History() as history:
        assert history.entries() == []
    assert (tmp_path / "edgeprune/history.db").is_file()
    monkeypatch.setenv("EDGEPRUNE_HISTORY", "postgresql://lab/results")
    assert history_url() == "postgresql://lab/results"
    assert history_url("sqlite:///x") == "sqlite:///x"
    monkeypatch.setenv("EDGEPRUNE_HISTORY", "off")
    assert history_url() is None


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_commit_of_the_repository_that_holds_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    model = tmp_path / "repo/m.tflite"
    model.parent.mkdir()
    assert git_commit(model) is None
    git = ["git", "-C", str(model.parent), "-c", "user.name=a", "-c", "user.email=a@b"]
    model.write_bytes(b"1")
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run([*git, *arguments], check=True, env=os.environ | {"GIT_CONFIG_GLOBAL": "/dev/null"})
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert git_commit(model) == commit
    model.write_bytes(b"2")
    assert git_commit(model) == f"{commit}-dirty"
