"""What several processes write at once is kept by each; what is damaged in the user's files costs that entry alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgeprune.cli import main
from edgeprune.cost.table import Table
from edgeprune.devices import add_group, add_target, list_groups, list_targets, remove_target, resolve_target
from edgeprune.devices.targets import targets_file
from edgeprune.errors import TargetError, printable
from edgeprune.files import parse_json

EACH = 20
PROCESSES = {"targets": 4, "table": 2}  # of the second each imports PyTorch
ADDING = {
    "targets": "from edgeprune.devices import add_target\n[add_target(f'{name}-{each}', 'ssh://pi') for each in range(count)]",
    "table": "from pathlib import Path\nfrom edgeprune.cost.table import Table\ntable = Table.open(Path('table.json'))\n"
    "[table.add({f'{name}-{each}': 1.0}) for each in range(count)]",
}


@pytest.mark.parametrize("kind", ADDING)
def test_entries_of_processes_that_write_at_once_are_all_kept(kind: str, client_home: Path) -> None:
    begin = "import sys; name, count = sys.argv[1], int(sys.argv[2]); sys.stdin.read()\n"
    command = [sys.executable, "-c", begin + ADDING[kind]]
    running = [
        subprocess.Popen([*command, f"p{number}", str(EACH)], stdin=subprocess.PIPE, cwd=client_home) for number in range(PROCESSES[kind])
    ]
    for process in running:
        assert process.stdin is not None
        process.stdin.close()  # all begin now
    assert [process.wait() for process in running] == [0] * PROCESSES[kind]
    wanted = {f"p{number}-{each}" for number in range(PROCESSES[kind]) for each in range(EACH)}
    kept = {target.name for target in list_targets()} if kind == "targets" else set(Table.open(client_home / "table.json").times)
    assert kept == wanted


def test_an_entry_that_is_damaged_costs_itself_alone(client_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_target("good", "ssh://pi", "raspberry-pi-4")
    strange = {
        "newer": {"address": "ssh://pi", "profile": None, "colour": "red"},
        "number": 5,
        "nothing": {},
        "profile": {"address": "ssh://pi", "profile": 7},
        "group": {"members": "good"},
    }
    targets_file().write_text(json.dumps(json.loads(targets_file().read_text()) | strange))
    assert [target.name for target in list_targets()] == ["good", "newer"]
    assert main(["targets", "list"]) == 0
    printed = capsys.readouterr()
    assert "good" in printed.out
    for name in ("number", "nothing", "profile", "group"):
        assert f"the entry '{name}'" in printed.err
        with pytest.raises(TargetError, match=f"the entry '{name}'"):
            resolve_target(name)
    assert resolve_target("good").profile == "raspberry-pi-4"
    add_target("another", "ssh://pi")
    assert set(json.loads(targets_file().read_text())) == {"good", "another", *strange}  # nothing is lost by a change
    assert json.loads(targets_file().read_text())["newer"]["colour"] == "red"
    remove_target("number")


@pytest.mark.parametrize("text", [b"[" * 3000, b'{"pi": ' + b"1" * 5000 + b"}", b"[]", b"\xff", b"", b"null"])
def test_a_targets_file_that_is_not_an_object_of_names_is_named(text: bytes, client_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    targets_file().parent.mkdir(parents=True)
    targets_file().write_bytes(text)
    for command in (["list"], ["add", "pi", "ssh://pi"], ["remove", "pi"]):
        assert main(["targets", *command]) == 1
        said = capsys.readouterr().err
        assert "targets.json" in said
        assert "fault of edgeprune" not in said
    assert targets_file().read_bytes() == text


def test_a_name_that_is_taken_is_not_replaced_silently(client_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_target("pi", "ssh://one")
    add_target("pi", "ssh://one")  # the same again
    assert main(["targets", "add", "pi", "ssh://two"]) == 1
    said = capsys.readouterr().err
    assert "already stands for ssh://one" in said
    assert "--replace" in said
    assert resolve_target("pi").address == "ssh://one"
    assert main(["targets", "add", "pi", "ssh://two", "--replace"]) == 0
    assert resolve_target("pi").address == "ssh://two"
    add_group("all", ["pi"])
    with pytest.raises(TargetError, match="already stands for pi"):
        add_group("all", ["local"], replace=False)
    with pytest.raises(TargetError, match="already stands for pi"):
        add_target("all", "ssh://three", replace=False)
    assert main(["targets", "group", "all", "local"]) == 1
    add_group("all", ["local"])
    assert list_groups() == {"all": ("local",)}


def test_a_device_table_keeps_its_good_entries(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "table.json"
    path.write_text('{"version": 1, "later": {}, "ms": {"good": 1.5, "text": "2", "nan": NaN, "negative": -1, "none": null}}')
    assert Table.open(path).times == {"good": 1.5}
    assert "table.json" in caplog.text
    path.write_text("[" * 3000)
    assert Table.open(path).times == {}
    (tmp_path / "file").write_text("")
    table = Table(tmp_path / "file" / "table.json")
    table.add({"kept": 1.0})  # a cache that cannot be written costs nothing else
    assert table.times == {"kept": 1.0}


@pytest.mark.parametrize(
    "text", ["[" * 3000 + "]" * 3000, "[" * 101 + "]" * 101, '{"a":' * 500 + "1" + "}" * 500, "1" * 5000, b"\xff\xfe", "{", ""]
)
def test_json_that_cannot_be_used_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)
    assert parse_json("[" * 100 + "]" * 100)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text, ä, 日本, \U0001f600", "plain text, ä, 日本, \U0001f600"),
        ("two\n\tlines\r\n", "two\n\tlines\n"),
        ("\x1b[31mred\x1b]0;title\x07", r"\x1b[31mred\x1b]0;title\x07"),
        ("over\rwritten\x08\x00\x7f\x9b1m", r"over\rwritten\x08\x00\x7f\x9b1m"),
        ("\u202egnp.exe\u2066\u200f\ufeff\u2028", r"\u202egnp.exe\u2066\u200f\ufeff\u2028"),
        ("\udc80", r"\udc80"),
        (b"caf\xc3\xa9 \xff\x1b", "café \ufffd\\x1b"),
    ],
)
def test_what_would_control_a_terminal_is_spelt_out(text: str | bytes, shown: str) -> None:
    assert printable(text) == shown
    assert TargetError(printable(text), remedy=printable(text)).message == shown
