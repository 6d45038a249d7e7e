"""What devices, files and databases hold is shown, never obeyed: escapes of a terminal are spelt out wherever they are printed."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from measured import MEASURED, device_info

from edgeprune.bench import Artifact, Report
from edgeprune.bench.history import History
from edgeprune.cli import main
from edgeprune.cli.measured import print_fleet
from edgeprune.cli.output import echo, print_json, show_error
from edgeprune.devices.targets import targets_file
from edgeprune.testing.models import dense_tflite

HOSTILE = "\x1b]0;owned\x07 \x9b2J \u202eevil\r"
SPELT = r"\x1b]0;owned\x07 \x9b2J \u202eevil\r"


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command prints, of which nothing controls a terminal."""
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert not set(out + err) & {"\x1b", "\x07", "\x9b", "\u202e", "\r"}
    return out


@pytest.fixture
def old_history(tmp_path: Path) -> str:
    """A history that an edgeprune wrote which believed everything."""
    path, model = tmp_path / "history.db", tmp_path / "m.tflite"
    model.write_bytes(b"a model")
    item = replace(
        MEASURED, name=f"m {HOSTILE}", device=f"board {HOSTILE}", runtime=f"r {HOSTILE}", warnings=(HOSTILE,), samples_ns=(1_000_000,) * 9
    )
    with History(f"sqlite:///{path}") as history:
        for _ in range(2):
            history.add(Report(device_info(), (item,), ()), "local:", Artifact(model))
    with closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE edgeprune_results SET model_name = ?, target = ?, label = ?, git_commit = ?", (HOSTILE,) * 4)
        database.commit()
    return f"sqlite:///{path}"


@pytest.mark.parametrize("command", [["history"], ["compare", "1", "2"]])
@pytest.mark.parametrize("as_json", [False, True])
def test_an_old_history_is_shown_not_obeyed(
    command: Sequence[str], as_json: bool, old_history: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    out = shown(capsys, *command, "--history", old_history, *(["--json"] if as_json else []))
    if as_json:
        first = json.loads(out)[0]
        assert HOSTILE in (first.get("label"), *first.get("b", {}).get("warnings", ()))
    else:
        assert r"\x1b]0" in out


def test_names_of_targets(client_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    targets_file().parent.mkdir(parents=True)
    targets_file().write_text(json.dumps({HOSTILE: {"address": f"ssh://{HOSTILE}"}}))
    assert r"\x1b]0;owned" in shown(capsys, "targets", "list")


def test_names_in_an_exported_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(dense_tflite(np.ones((4, 4), np.float32)).replace(b"tensor_0", b"\x1b[31mab\x07"))
    assert r"\x1b[31mab\x07" in shown(capsys, "export", "--show", str(path))
    assert json.loads(shown(capsys, "export", "--show", str(path), "--json"))["inputs"][0]["name"] == "\x1b[31mab\x07"


def test_a_table_of_several_devices(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    info = replace(device_info(), board=HOSTILE)
    print_fleet([(f"pi {HOSTILE}", Report(info, (replace(MEASURED, name=HOSTILE),), ()), HOSTILE)])
    out = capsys.readouterr().out
    assert SPELT in out
    assert not set(out) & {"\x1b", "\x9b", "\u202e"}


def test_every_way_of_printing(capsys: pytest.CaptureFixture[str]) -> None:
    echo(HOSTILE)
    show_error(HOSTILE, HOSTILE, [HOSTILE])
    print_json({"a": HOSTILE, "b": "ü \u2028"})
    out, err = capsys.readouterr()
    assert not set(out + err) & {"\x1b", "\x9b", "\u202e", "\u2028"}
    assert (out + err).count(SPELT) == 4
    assert "ü" in out
    assert json.loads(out.partition("\n")[2]) == {"a": HOSTILE, "b": "ü \u2028"}
