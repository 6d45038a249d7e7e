"""``edgeprune profiles``: list and show, as tables and as JSON."""

from __future__ import annotations

import json

import pytest

from edgeprune.cli import main
from edgeprune.profile import load, names


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """A terminal where nothing is folded."""
    monkeypatch.setenv("COLUMNS", "500")


@pytest.mark.parametrize("arguments", [[], ["list"]])
def test_the_list_names_every_profile(arguments, capsys):
    assert main(["profiles", *arguments]) == 0
    out = capsys.readouterr().out
    assert [name for name in names() if name not in out] == []
    assert "4 x Cortex-A72" in out


@pytest.mark.parametrize("arguments", [["--json"], ["list", "--json"]])
def test_the_list_as_json(arguments, capsys):
    assert main(["profiles", *arguments]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in listed] == names()
    assert {entry["name"]: entry["cpu"]["core"] for entry in listed}["raspberry-pi-5"] == "Cortex-A76"


def test_show_prints_every_fact_with_its_source(capsys):
    assert main(["profiles", "show", "raspberry-pi-5"]) == 0
    out = capsys.readouterr().out
    for key, fact in load("raspberry-pi-5").facts.items():
        assert key in out
        assert fact.source in out  # among them "[3P] ...", which is no markup
    assert "2.4 GHz" in out
    assert "not measurements" in out


def test_show_as_json(capsys):
    assert main(["profiles", "show", "raspberry-pi-4", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["facts"]["cpu.clock_hz"]["value"] == 1.5e9
    assert shown["facts"]["cpu.clock_hz"]["unit"] == "Hz"
    assert "Raspberry Pi documentation" in shown["facts"]["cpu.clock_hz"]["source"]
    assert shown["prior"]["macs_per_s"]["pointwise"] == load("raspberry-pi-4").prior.macs_per_s["pointwise"]


def test_a_users_own_file_is_shown(tmp_path, capsys):
    from edgeprune.resources import resource

    path = tmp_path / "mine.toml"
    path.write_text(resource("profiles", "pixel-6.toml").read_text().replace('name = "pixel-6"', 'name = "my-phone"'))
    assert main(["profiles", "show", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "my-phone"


def test_an_unknown_profile_lists_the_known_ones(capsys):
    assert main(["profiles", "show", "raspberry-pi-9"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "raspberry-pi-9" in captured.err
    assert all(name in captured.err for name in names())


def test_json_before_the_subcommand_is_wrong_usage(capsys):
    assert main(["profiles", "--json", "list"]) == 2
    assert "profiles list --json" in capsys.readouterr().err
