"""Every reader of what comes from outside: whatever a file or a device says, there is a clear error that names it, or a good value."""

from __future__ import annotations

import json
import math
import sys
import tempfile
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from anything import VALUES, failure, tried
from hypothesis import given, settings
from hypothesis import strategies as st
from readers import Saying, behind_mark, runner

from edgeprune import profile
from edgeprune.budget import Budget
from edgeprune.cli import main
from edgeprune.cost.table import Table
from edgeprune.devices import provision
from edgeprune.devices.pythons import discover
from edgeprune.devices.runner import runtimes_of
from edgeprune.devices.targets import damaged_entries, list_groups, list_targets, resolve_target, targets_file
from edgeprune.export.converter import Converter
from edgeprune.export.metadata import notes_of, read_metadata
from edgeprune.export.sizes import sizes
from edgeprune.release.deploy import answers
from edgeprune.release.deploy.store import ReleaseStore
from edgeprune.resources import resource
from edgeprune.runs.directory import RunDirectory
from edgeprune.runs.events import KINDS, Event, Progress, Unknown, read_events
from edgeprune.search.fingerprint import asked_of
from edgeprune.search.options import Options

FEW = settings(max_examples=40, deadline=None)


def text(value: Any) -> str:
    return json.dumps(value)


ROOT = tempfile.TemporaryDirectory()


def folder() -> Path:
    return Path(tempfile.mkdtemp(dir=ROOT.name))


# what users write

LITERALS = st.sampled_from(
    [
        *("1", "-1", "1.5", "nan", "-inf", "1e999", "9" * 400, "true", '"text"', '""', "2020-01-01", "[]", "[[1]]", "{}", "{ value = 1 }"),
        *("{ value = [] , source = 1 }", "{ value = true, unit = 3, source = [] }", '{ value = 1, unit = "", source = "x" }'),
    ]
)


@FEW
@given(st.data())
def test_a_profile_with_any_value_in_it(data: st.DataObject) -> None:
    lines = resource("profiles", "raspberry-pi-4.toml").read_text().splitlines()
    place = data.draw(st.sampled_from([number for number, line in enumerate(lines) if " = " in line]))
    path = folder() / "mine.toml"
    lines[place] = f"{lines[place].partition(' = ')[0]} = {data.draw(LITERALS)}"
    path.write_text("\n".join(lines))
    said = failure(lambda: profile.load(path))
    assert said is None or "mine.toml" in said


@FEW
@given(VALUES, VALUES, VALUES)
def test_a_targets_file_with_any_entry(one: Any, address: Any, members: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(folder()))
        targets_file().parent.mkdir(parents=True)
        entries = {
            "any": one,
            "device": {"address": address, "profile": one},
            "group": {"members": members},
            "good": {"address": "ssh://h"},
        }
        targets_file().write_text(text(entries))
        assert "good" in [target.name for target in list_targets()]
        assert all(all(isinstance(member, str) for member in group) for group in list_groups().values())
        for flaw in damaged_entries():
            assert "targets.json" in flaw
        for name in entries:
            failure(lambda name=name: resolve_target(name))


# what runs keep


def run_with(inputs: Any, result: Any = None, records: list[str] | None = None) -> Path:
    path = folder()
    (path / "run.json").write_text(text({"inputs": inputs, "result": result, "state": "done"}))
    (path / "measurements.jsonl").write_text("".join(f"{line}\n" for line in records or []))
    return path


INPUTS: dict[str, Any] = {
    **{"recipe": "r.py", "target": "local:", "profile": None, "task": "t", "model": "m", "settings": {}},
    "budget": asdict(Budget(latency="50%")),
    "options": json.loads(json.dumps(asdict(Options()))),
}


def test_what_a_run_was_asked_is_read_back() -> None:
    asked = asked_of(run_with(INPUTS))
    assert (asked.budget, asked.options, asked.target, asked.recipe) == (Budget(latency="50%"), Options(), "local:", "r.py")
    assert asked_of(run_with(INPUTS | {"of a newer version": 1})).target == "local:"
    said = failure(lambda: asked_of(run_with(INPUTS | {"options": INPUTS["options"] | {"shiny": True}})))
    assert said is not None
    assert "shiny" in said


@FEW
@given(VALUES, VALUES)
def test_records_of_any_value(value: Any, key: Any) -> None:
    good = text({"key": "one", "value": {"metric": 1.0}, "at": "2026-01-01T00:00:00Z"})
    path = run_with(INPUTS, records=[good, text({"key": key, "value": value})])
    run, said = tried(lambda: RunDirectory.reopen(path))
    assert run is not None or "line 2" in said
    if run is not None:
        assert run.recall("one") == {"metric": 1.0} or key == "one"
        run.close()


@FEW
@given(st.sampled_from(sorted(KINDS)), st.sampled_from(["message", "run", "done", "loss", "measured", "seconds", "at"]), VALUES)
def test_events_of_any_value_cost_only_their_line(kind: str, name: str, value: Any) -> None:
    path, at = folder(), "2026-01-01T00:00:00Z"
    good = text({"at": at} | Progress("tuning", 1, 2, math.nan).to_json() | {"of a newer version": 1})
    newer = text({"at": at, "event": "Novelty", "colour": "red"})
    (path / "events.jsonl").write_text("\n".join([text({"at": at, "event": kind, name: value}), text(value), good, newer]))
    found = [event for _, event in read_events(path)]
    assert all(isinstance(event, Event) for event in found)
    assert isinstance(found[-2], Progress)
    assert (found[-2].stage, found[-2].done, found[-2].total) == ("tuning", 1, 2)
    assert found[-1] == Unknown("Novelty", {"colour": "red"})


@FEW
@given(VALUES, VALUES)
def test_a_device_table_of_any_value_is_measured_again(one: Any, other: Any) -> None:
    path = folder() / "table.json"
    for document in ({"ms": {"good": 1.5, "odd": one}}, {"ms": one}, {other if isinstance(other, str) else "x": one}, other):
        path.write_text(text(document))
        times = Table.open(path).times
        assert all(0 < value < math.inf for value in times.values())
    path.write_text(text({"ms": {"good": 1.5, "odd": one}}))
    assert Table.open(path).times["good"] == 1.5


# what devices say


@FEW
@given(VALUES, VALUES)
def test_an_activator_that_answers_anything(value: Any, other: Any) -> None:
    fields = ("products", "about", "clock_s", "missing", "releases", "from", "removed", "error", "protocol", "code")
    for name in fields:
        session: Any = Saying(text({"protocol": 1, "clock_s": 1.0, name: value, "highest": other}))
        store = ReleaseStore(session, "/usr/bin/python3", "/home/u")
        for kind in (answers.Held, answers.Begun, answers.Staged, answers.Switched, answers.WentBack, answers.State, answers.Removed):
            said = failure(lambda store=store, kind=kind: store.call(kind, "held", "gadget"))
            assert said is None or "ssh://board" in said
        failure(store.products)
        failure(lambda store=store: store.run_after("gadget", "true", 1.0))


def test_an_activators_answer_is_read() -> None:
    session: Any = Saying(text({"protocol": 1, "from": None, "version": "1.0.0", "of a newer version": []}))
    found = ReleaseStore(session, "/usr/bin/python3", "/home/u").call(answers.WentBack, "rollback", "gadget")
    assert found == {"from": None, "version": "1.0.0"}


def line(**fields: Any) -> str:
    """As it comes behind the mark."""
    return behind_mark(text(fields))


@FEW
@given(VALUES, VALUES)
def test_a_runner_that_answers_anything(value: Any, other: Any) -> None:
    told: list[Any] = []
    for lines in (
        [line(protocol=1, event="table", done=value, total=other), line(protocol=1, event="result", result={})],
        [line(protocol=1, event=value, name=other)],
        [line(protocol=value, event="result", result=other)],
        [line(protocol=1, event="error", error=value)],
        [text(value)],
    ):
        said = failure(lambda lines=lines: runner(*lines).request("bench", 1.0, told.append))
        assert said is None or "ssh://board" in said
    assert all(isinstance(event.get("done", 0), int) and isinstance(event["event"], str) for event in told)
    silent = runner()
    silent.probe = {"runtimes": value}
    assert failure(lambda: runtimes_of(silent)) != ""


@FEW
@given(VALUES)
def test_pythons_that_describe_themselves_as_anything(value: Any) -> None:
    session: Any = Saying("/home/u", "/home/u/.cache", "GNU/Linux", text(value), text(["/p", value, "aarch64", "glibc 2.36", "/p"]))
    assert failure(lambda: discover(session)) != ""


# what is kept in model files, and what the programs beside a session answer


def archive_with(name: str, content: bytes) -> Path:
    path = folder() / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"model/{name}", content)
    return path


@FEW
@given(VALUES)
def test_metadata_of_any_value(value: Any) -> None:
    for content in (value, {"notes": value}):
        path = archive_with("extra/edgeprune.json", text(content).encode())
        for read in (read_metadata, notes_of, sizes):
            said = failure(lambda read=read, path=path: read(path))
            assert said is None or "model.pt" in said
    path = archive_with("data/weights/model_weights_config.json", text({"config": {"weight": value}}).encode())
    said = failure(lambda: sizes(path))
    assert said is None or "model.pt" in said


@FEW
@given(VALUES, VALUES)
def test_an_installer_that_answers_anything(value: Any, other: Any) -> None:
    python = text(["/usr/bin/python3", [3, 11, 2], "aarch64", "glibc 2.36", "/usr/bin/python3"])
    for answer in (value, {"exists": True, "manifest": value, "unfinished": other, "free_bytes": 1}, {"error": value, "full": other}):
        session: Any = Saying("/home/u", "/home/u/.cache", "GNU/Linux", python, text(answer))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(provision, "connect", lambda address, session=session: session)
            patch.setattr(provision, "collect", lambda *asked, **more: [])
            said = failure(lambda: provision.set_up("ssh://board", dry_run=True, offline=True, retries=0))
        assert said is None or "ssh://board" in said


@pytest.mark.parametrize("answer", ["", "no json", "[]", '{"error": 1}', '{"error": "no", "op": []}'])
def test_a_converter_that_answers_something_else(answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.export, "save", lambda program, path: None)
    converter = Converter((sys.executable, "-c", f"input(); print({answer!r})"))
    program: Any = None
    try:
        assert "tflite" in (failure(lambda: converter.convert(program, 60.0)) or "")
    finally:
        converter.stop()


@pytest.mark.parametrize(
    "damage", [{"options": 5}, {"budget": {"latency": []}}, {"options": {"epochs": "many"}}, {"recipe": {}}, {"target": 1}]
)
def test_a_command_on_a_damaged_run_says_so(damage: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    path = run_with(INPUTS | damage)
    assert main(["prune", "--resume", str(path)]) == 1
    printed = capsys.readouterr().err
    assert path.name in printed
    assert "Traceback" not in printed
