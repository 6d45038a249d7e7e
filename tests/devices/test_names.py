"""Addresses, names for devices, wheels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgeprune.cli.targets import command
from edgeprune.devices import Target, add_target, list_targets, parse_address, remove_target, resolve_target
from edgeprune.devices.targets import targets_file
from edgeprune.errors import TargetError


@pytest.mark.parametrize(
    ("text", "scheme", "user", "host", "port"),
    [
        ("local:", "local", None, "", None),
        ("ssh://box", "ssh", None, "box", None),
        ("ssh://pi@10.0.0.5:2222", "ssh", "pi", "10.0.0.5", 2222),
        ("ssh://Pi.Box", "ssh", None, "Pi.Box", None),
        ("ssh://pi@[::1]:22", "ssh", "pi", "::1", 22),
        ("ssh://a%40b@host", "ssh", "a@b", "host", None),
    ],
)
def test_addresses(text: str, scheme: str, user: str | None, host: str, port: int | None) -> None:
    found = parse_address(text)
    assert (found.scheme, found.user, found.host, found.port) == (scheme, user, host, port)


def test_options_of_an_address() -> None:
    found = parse_address("ssh://h?python=/opt/py/bin/python&known_hosts=/k")
    assert (found.python, found.known_hosts) == ("/opt/py/bin/python", "/k")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("http://x", "unknown kind 'http'"),
        ("box", "unknown kind"),
        ("ssh://", "malformed"),
        ("ssh://h/path", "malformed"),
        ("local://h", "malformed"),
        ("ssh://h:99999", "malformed"),
        ("ssh://u:secret@h", "password"),
        ("ssh://h?pyton=/x", "unknown option 'pyton'"),
    ],
)
def test_malformed_addresses(text: str, reason: str) -> None:
    with pytest.raises(TargetError, match=reason) as caught:
        parse_address(text)
    assert caught.value.remedy
    assert "secret" not in str(caught.value)


@pytest.fixture
def config(client_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return client_home


def test_names_are_kept_replaced_and_forgotten(config: Path) -> None:
    assert list_targets() == []
    add_target("pi5", "ssh://pi@one", "raspberry-pi-5")
    add_target("box", "ssh://box")
    add_target("pi5", "ssh://pi@two")
    assert list_targets() == [Target("box", "ssh://box"), Target("pi5", "ssh://pi@two")]
    assert resolve_target("pi5").address == "ssh://pi@two"
    remove_target("pi5")
    assert [target.name for target in list_targets()] == ["box"]
    assert {path.name for path in targets_file().parent.iterdir()} == {"targets.json", ".lock"}


def test_an_unknown_name_lists_the_known_ones(config: Path) -> None:
    add_target("box", "ssh://box")
    for use in (resolve_target, remove_target):
        with pytest.raises(TargetError, match="unknown target 'bax'") as caught:
            use("bax")
        assert "Known targets: box" in str(caught.value.remedy)


def test_addresses_are_targets_too(config: Path) -> None:
    assert resolve_target("local").address == "local:"
    assert resolve_target("ssh://u@h").address == "ssh://u@h"


@pytest.mark.parametrize(
    ("name", "address"), [("a b", "ssh://h"), ("", "ssh://h"), ("local", "ssh://h"), ("../x", "ssh://h"), ("ok", "http://h")]
)
def test_bad_names_and_addresses_are_not_kept(config: Path, name: str, address: str) -> None:
    with pytest.raises(TargetError):
        add_target(name, address)
    assert list_targets() == []


@pytest.mark.parametrize("content", ["", "[]", '{"a": {}}', '{"a": 1}'])
def test_a_damaged_file_is_named(config: Path, content: str) -> None:
    add_target("box", "ssh://box")
    targets_file().write_text(content)
    with pytest.raises(TargetError, match=r"targets\.json is damaged"):
        list_targets()


def test_the_command(config: Path) -> None:
    run = CliRunner().invoke
    assert run(command, ["add", "pi5", "ssh://pi@h"], catch_exceptions=False).exit_code == 0
    assert json.loads(run(command, ["list", "--json"]).stdout) == [{"name": "pi5", "address": "ssh://pi@h", "profile": None}]
    assert "pi5" in run(command, ["list"]).stdout
    assert run(command, ["remove", "pi5"]).exit_code == 0
    assert "No targets yet" in run(command, ["list"]).stdout
