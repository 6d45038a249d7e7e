"""All that reads what comes from outside, with a good document for each: what the tests damage."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from anything import failure
from edgeprune.targets.activator.app import answer
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
from edgeprune.devices.targets import targets_file
from edgeprune.errors import EdgepruneError
from edgeprune.graph import analyze
from edgeprune.profile import load as load_profile
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


@dataclass
class Reader:
    """``content``: a good document; ``read``: what uses one, written to the file that it is called with.  ``named``: what every refusal
    names. ``write``: how the document's JSON is written."""

    content: bytes
    read: Callable[[bytes], object]
    named: str = ""
    write: Callable[[Any], str] = json.dumps

    def refuses(self, content: bytes) -> bool:
        """Whether one of the project's own errors came of it; any other exception is raised."""
        refused = failure(lambda: self.read(content))
        assert refused is None or (refused and self.named in refused and "\x1b" not in refused)
        return refused is not None


class Saying:
    """A session on which every command prints the same lines."""

    address = "ssh://board"

    def __init__(self, *lines: str) -> None:
        self.lines = lines

    def run(
        self, argv: Any, input: bytes = b"", timeout_s: Any = None, on_line: Any = None, heartbeat_s: Any = None, mark: str = ""
    ) -> Any:
        for line in self.lines if on_line else ():
            on_line(line)
        return Completed(0, b"", b"")

    def exists(self, remote: str) -> bool:
        return True

    def __enter__(self) -> Saying:
        return self

    def __exit__(self, *_: object) -> None:
        return


def runner(*lines: str) -> Runner:
    """A runner on a device that says ``lines``, each behind its mark."""
    session: Any = Saying(*lines)
    return Runner(session, Python("/usr/bin/python3", (3, 11), "aarch64", "glibc 2.36"), "/p", {})


def behind_mark(document: str) -> str:
    """What follows the mark, which is a runner's first field, of a line with this object."""
    return '",' + document.strip().removeprefix("{")


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
    return replace(file(path, lambda: load_profile(path), resource("profiles", "raspberry-pi-4.toml").read_bytes()), named="mine.toml")


@reader("a manifest")
def manifest(folder: Path) -> Reader:
    def read(content: bytes) -> None:
        found = Manifest.from_bytes(content)
        assert Manifest.from_bytes(found.to_bytes()) == found

    content = Bundle.open(Kit(folder).bundle("1.0.0", 1)).manifest.to_bytes()
    return Reader(content, read, "manifest", lambda value: json.dumps(value, indent=1, sort_keys=True) + "\n")


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
    content = b'{"event": "result", "protocol": 1, "result": {"runtimes": {"tflite": {"error": {"message": "a"}}}}}'
    return Reader(
        content, lambda said: runner(*behind_mark(said.decode("utf-8", "replace")).split("\n")).request("probe", 5.0), "ssh://board"
    )


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
