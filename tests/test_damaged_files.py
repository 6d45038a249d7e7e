"""Damaged and forged files, of every kind that edgeprune reads: an error that says so, or what is still true; never a fault of edgeprune.

Each reader gets a good document, changed in one place or cut.  ``DAMAGES`` are tried on all of them; hypothesis draws more.
"""

from __future__ import annotations

import copy
import json
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from edgeprune.targets.activator.app import answer
from hypothesis import given, settings
from hypothesis import strategies as st
from measured import device_info
from points_task import Points
from release_kit import Kit
from release_runs import make_micro_run, make_run, measurement
from safetensors import safe_open
from safetensors.torch import save

from edgeprune.bench import Artifact, Measurement, Report
from edgeprune.bench.history import History
from edgeprune.bench.info import facts_of
from edgeprune.cli import main
from edgeprune.cli.exit_codes import Exit
from edgeprune.cost.table import Table
from edgeprune.devices.process import Completed
from edgeprune.devices.pythons import Python
from edgeprune.devices.runner import Runner
from edgeprune.devices.session import Session
from edgeprune.devices.targets import targets_file
from edgeprune.errors import EdgepruneError
from edgeprune.graph import analyze
from edgeprune.release.bundle.file import Bundle
from edgeprune.release.bundle.manifest import Manifest
from edgeprune.resources import resource
from edgeprune.runs.directory import RunDirectory
from edgeprune.runs.events import EVENTS, Noted, PlanMeasured, Progress, read_events
from edgeprune.runs.finished import read_run
from edgeprune.search.measure.archive import Archive
from edgeprune.search.measure.paired import PairedMeasurement
from edgeprune.surgery import Plan, apply
from edgeprune.surgery import load as load_pruned
from edgeprune.surgery import save as save_pruned
from edgeprune.tuning.checkpoint import Progress as Tuned
from edgeprune.tuning.checkpoint import load_checkpoint, save_checkpoint

MEASURED = measurement(b"a model")
DEEP, LONG = "[" * 3000 + "]" * 3000, "9" * 5000
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "of the last byte": lambda content: content[:-1],
    "no text": lambda content: b"\xff\xfe\x00" + content,
    "zeros": lambda content: b"\0" * len(content),
    "twice": lambda content: content + content,
    "a number": lambda content: b"5",
    "a list": lambda content: b"[1, null]",
    "nothing": lambda content: b"null",
    "an empty object": lambda content: b"{}",
    "nested": lambda content: DEEP.encode(),
    "a long number": lambda content: LONG.encode(),
    "not a number": lambda content: re.sub(rb"\b[0-9]+(\.[0-9]+)?\b", b"NaN", content),
    "negative": lambda content: re.sub(rb"(?<=[ :\[])[0-9]", b"-1", content),
    "numbers as text": lambda content: re.sub(rb"(?<=[ :\[])[0-9]+(\.[0-9]+)?\b", b'"x"', content),
    "texts as numbers": lambda content: re.sub(rb': "[^"]*"', b": 7", content),
    "escapes": lambda content: content.replace(b"a", rb"\u001b[31m"),
}

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from([10**400, -1, 0, "../x", "\x1b[2J"])
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=6
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of everything in a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def changed(value: Any, path: tuple[Any, ...], new: Any, remove: bool) -> Any:
    """A copy with what stands at ``path`` replaced, or removed."""
    if not path:
        return new
    made = copy.deepcopy(value)
    place = made
    for key in path[:-1]:
        place = place[key]
    if remove:
        del place[path[-1]]
    else:
        place[path[-1]] = new
    return made


@dataclass
class Reader:
    """``content``: a good document; ``read``: what uses one, written to the file that it is called with."""

    content: bytes
    read: Callable[[bytes], object]

    def refuses(self, content: bytes) -> bool:
        """Whether one of the project's own errors came of it; any other exception is raised."""
        refused: EdgepruneError | None = None
        try:
            self.read(content)
        except EdgepruneError as error:
            refused = error
        assert refused is None or (refused.message and "\x1b" not in str(refused))
        return refused is not None


class Played(Session):
    """A device whose runner says one line."""

    address = "ssh://board"

    def __init__(self, line: bytes) -> None:
        self.line = line

    def run(self, argv: Any, input: bytes = b"", timeout_s: Any = None, on_line: Any = None, *_: Any) -> Completed:
        for line in self.line.decode("utf-8", "replace").split("\n"):
            on_line(line)
        return Completed(0, b"", b"")

    start = put = sha256 = get = remove = exists = mkdir = close = None  # type: ignore[assignment]


def said(content: bytes) -> object:
    """What comes of a line behind the mark."""
    return Runner(
        Played(b'",' + content.strip().removeprefix(b"{")), Python("/usr/bin/python3", (3, 11), "x86_64", "glibc"), "r", {}
    ).request("probe", 5.0)  # type: ignore[abstract]


def run(*arguments: object) -> None:
    """A command, which may fail, but not by a fault of edgeprune."""
    assert main([*map(str, arguments)]) != Exit.FAULT


READERS: dict[str, Callable[[Path], Reader]] = {}


def reader(name: str) -> Callable[[Callable[[Path], Reader]], Callable[[Path], Reader]]:
    """Register what makes a reader, with its files in a folder."""

    def add(make: Callable[[Path], Reader]) -> Callable[[Path], Reader]:
        READERS[name] = make
        return make

    return add


def file(path: Path, read: Callable[[], object], content: bytes | None = None) -> Reader:
    """A reader of the file ``path``, which holds ``content``."""

    def write_and_read(damaged: bytes) -> object:
        path.write_bytes(damaged)
        return read()

    return Reader(path.read_bytes() if content is None else content, write_and_read)


@reader("run.json, read for a release")
def finished(folder: Path) -> Reader:
    path = make_run(folder / "run")
    return file(path / "run.json", lambda: read_run(path))


@reader("run.json, built into a release")
def built(folder: Path) -> Reader:
    path = make_run(folder / "run")
    return file(path / "run.json", lambda: run("release", "build", path, "--version", "1.0.0", "--output", folder / "x.epb"))


@reader("run.json, continued")
def continued(folder: Path) -> Reader:
    path = make_run(folder / "run")

    def use() -> None:
        run("prune", "--resume", path)
        run("frontier", "--resume", path)

    return file(path / "run.json", use)


def use_records(path: Path, *decode: Callable[[Any], object]) -> None:
    """All that is made of a run's measurements."""
    found = read_run(path)
    with suppress(EdgepruneError):
        _ = found.device
    for item in found.exported:
        for look in (found.measured, found.arena):
            with suppress(EdgepruneError):
                look(item.sha256)
    directory = RunDirectory.reopen(path)
    try:
        for key in ("device", "final-0-abc"):
            for kind in decode:
                with suppress(EdgepruneError):
                    directory.recall_by(key, kind)
    finally:
        directory.close()


@reader("measurements.jsonl")
def records(folder: Path) -> Reader:
    path = make_run(folder / "run")
    return file(path / "measurements.jsonl", lambda: use_records(path, facts_of, PairedMeasurement.from_json, Measurement.from_json))


@reader("measurements.jsonl of a microcontroller")
def micro_records(folder: Path) -> Reader:
    path = make_micro_run(folder / "run")
    return file(path / "measurements.jsonl", lambda: use_records(path))


@reader("events.jsonl")
def events(folder: Path) -> Reader:
    lines = [
        {"at": "2026-01-01", **event.to_json()}
        for event in (Noted("a"), Progress("tuning", 1, 2), PlanMeasured(1, {"latency": 1.0}, {"latency": 2.0}, 0.5))
    ]
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    return file(folder / EVENTS, lambda: [event.text for _, event in read_events(folder)], content)


@reader("targets.json")
def targets(folder: Path) -> Reader:
    path = targets_file()
    path.parent.mkdir(parents=True)

    def use() -> None:
        run("targets", "list")
        run("bench", "no.tflite", "--target", "all,pi")
        run("targets", "add", "other", "ssh://192.0.2.5")
        run("targets", "remove", "other")

    names = {"pi": {"address": "ssh://pi@192.0.2.4", "profile": "raspberry-pi-4"}, "all": {"members": ["pi"]}}
    return file(path, use, json.dumps(names).encode())


@reader("a device table")
def table(folder: Path) -> Reader:
    path = folder / "table.json"
    return file(path, lambda: Table.open(path).add({"b": 2.0}), b'{"version": 1, "ms": {"a": 1.5}}')


@reader("measured plans")
def trials(folder: Path) -> Reader:
    path = folder / "trials.jsonl"
    pair = PairedMeasurement(0.5, 0.4, 0.6, MEASURED, MEASURED)
    line = json.dumps({"widths": {"a": 4}, "trial": pair.to_json()}) + "\n"
    return file(path, lambda: Archive(path).observed(), line.encode())


@reader("a plan")
def plan(folder: Path) -> Reader:
    return Reader(Plan("abc", {"a": ((0, 1),)}).to_json().encode(), lambda content: Plan.from_json(content.decode("utf-8", "replace")))


@reader("a profile")
def profile(folder: Path) -> Reader:
    path = folder / "mine.toml"
    return file(path, lambda: run("profiles", "show", path), resource("profiles", "raspberry-pi-4.toml").read_bytes())


@reader("a manifest")
def manifest(folder: Path) -> Reader:
    return Reader(Bundle.open(Kit(folder).bundle("1.0.0", 1)).manifest.to_bytes(), Manifest.from_bytes)


@reader("a bundle")
def bundle(folder: Path) -> Reader:
    kit = Kit(folder)
    path = kit.bundle("1.0.0", 1)

    def use() -> None:
        run("release", "show", path)
        run("release", "verify", path, "--allowed-signers", kit.allowed)

    return file(path, use)


@reader("allowed signers")
def signers(folder: Path) -> Reader:
    kit = Kit(folder)
    path = kit.bundle("1.0.0", 1)
    return file(kit.allowed, lambda: run("release", "verify", path, "--allowed-signers", kit.allowed))


@reader("state.json")
def state(folder: Path) -> Reader:
    root = folder / "store" / "gadget"
    (root / "releases").mkdir(parents=True)
    kept = {"schema": 1, "token": "t", "committed": None, "previous": None, "pending": None, "latest_s": 5}
    kept["highest"] = {"version": "1.0.0", "sequence": 1, "manifest": "ab"}

    def use() -> None:
        for command in ("status", "held", "recover"):
            assert answer(command, {"root": str(root)})["protocol"] == 1

    return file(root / "state.json", use, json.dumps(kept).encode())


@reader("a result of the history")
def stored(folder: Path) -> Reader:
    path, model = folder / "history.db", folder / "m.tflite"
    url = f"sqlite:///{path}"
    model.write_bytes(b"a model")
    with History(url) as history:
        for _ in range(2):
            history.add(Report(device_info(), (MEASURED,), ()), "local:", Artifact(model))
    with closing(sqlite3.connect(path)) as database:
        content = str(database.execute("SELECT result FROM edgeprune_results WHERE id = 1").fetchone()[0])

    def use(damaged: bytes) -> None:
        with closing(sqlite3.connect(path)) as database:
            database.execute("UPDATE edgeprune_results SET result = ? WHERE id = 1", (damaged.decode("utf-8", "replace"),))
            database.commit()
        run("history", "--history", url)
        run("compare", "1", "2", "--history", url)

    return Reader(content.encode(), use)


@reader("a file of results")
def results(folder: Path) -> Reader:
    path = folder / "result.json"
    content = json.dumps({"measurements": [MEASURED.to_json()], "comparisons": []})
    return file(path, lambda: run("compare", path, path), content.encode())


@reader("a line of the runner")
def line(folder: Path) -> Reader:
    return Reader(b'{"event": "result", "protocol": 1, "result": {"runtimes": {"tflite": {"error": {"message": "a"}}}}}', said)


@reader("a checkpoint of a fine-tuning")
def tuning(folder: Path) -> Reader:
    path, network = folder / "tune.safetensors", Points(8)
    save_checkpoint(path, network, None, Tuned({"seed": 0}, 1, 5, [{"epoch": 1.0, "loss": 0.5}]))
    return file(path, lambda: load_checkpoint(path, network, None, {"seed": 0}))


@reader("the progress of a fine-tuning")
def progress(folder: Path) -> Reader:
    path, network = folder / "tune.safetensors", Points(8)
    tensors = {f"model/{name}": value for name, value in network.state_dict().items()}

    def use(damaged: bytes) -> None:
        path.write_bytes(save(tensors, metadata={"edgeprune.tuning": damaged.decode("utf-8", "replace")}))
        found = load_checkpoint(path, network, None, {"seed": 0})
        assert found is not None
        assert isinstance(found.epochs, int) and all(isinstance(entry, dict) for entry in found.history)  # noqa: PT018

    return Reader(json.dumps(asdict(Tuned({"seed": 0}, 1, 5, [{"epoch": 1.0, "loss": 0.5}]))).encode(), use)


@reader("the header of a checkpoint")
def header(folder: Path) -> Reader:
    path, network = folder / "pruned.safetensors", Points(8).eval()
    analysis = analyze(network, (torch.zeros(1, 8),))
    cut = apply(network, analysis, Plan(analysis.fingerprint, {}), "auto")
    save_pruned(path, cut, analysis, (torch.zeros(1, 8),))
    with safe_open(path, framework="pt") as opened:
        good = dict(opened.metadata())
    tensors = {name: value.clone() for name, value in cut.model.state_dict().items()}

    def use(damaged: bytes) -> None:
        try:
            found = json.loads(damaged)
        except (ValueError, RecursionError):
            return
        if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
            return  # safetensors writes texts alone
        path.write_bytes(save(tensors, metadata=found))
        load_pruned(network, path)

    return Reader(json.dumps(good).encode(), use)


TOML = ("-1", "nan", "1e999", '"text"', "[]", "{}", "true", "1979-05-27", "\n[cpu]\n", "\nvalue = 1\n")
WITHOUT_JSON = ("a profile", "a bundle", "allowed signers", "a checkpoint of a fine-tuning")


@pytest.fixture
def folder(tmp_path: Path, client_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEPRUNE_HISTORY", "off")
    return tmp_path


@pytest.mark.parametrize("name", READERS)
def test_what_is_good_is_read(name: str, folder: Path) -> None:
    made = READERS[name](folder)
    assert not made.refuses(made.content)


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_errors_that_say_so(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = READERS[name](folder)
    for damage in DAMAGES.values():
        made.refuses(damage(made.content))
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    assert "\x1b" not in said.out + said.err


@pytest.mark.parametrize("name", [name for name in READERS if name not in WITHOUT_JSON])
def test_no_change_of_a_document_ends_in_anything_but_a_clear_error(name: str, folder: Path) -> None:
    made = READERS[name](folder)
    lines = [json.loads(line) for line in made.content.splitlines()] if ".jsonl" in name else [json.loads(made.content)]

    @settings(max_examples=25, deadline=None)
    @given(st.data())
    def change(data: st.DataObject) -> None:
        number = data.draw(st.integers(0, len(lines) - 1))
        path = data.draw(st.sampled_from(list(places(lines[number]))))
        document = changed(lines[number], path, data.draw(VALUES), data.draw(st.booleans()))
        written = [json.dumps(document if place == number else line) for place, line in enumerate(lines)]
        made.refuses("\n".join([*written, ""] if ".jsonl" in name else written).encode())

    change()


@pytest.mark.parametrize("name", WITHOUT_JSON)
def test_no_change_of_bytes_ends_in_anything_but_a_clear_error(name: str, folder: Path) -> None:
    made = READERS[name](folder)

    @settings(max_examples=25, deadline=None)
    @given(st.integers(0, len(made.content)), st.integers(0, 8), st.binary(max_size=8) | st.sampled_from(TOML).map(str.encode))
    def change(place: int, taken: int, put: bytes) -> None:
        made.refuses(made.content[:place] + put + made.content[place + taken :])

    change()
