"""``edgeprune bench``, ``history``, ``compare`` and ``probe`` as a user or a CI server calls them: outputs and exit codes."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from junit_layout import check_layout
from played_device import play

from edgeprune.cli import main
from edgeprune.devices import add_group, add_target
from edgeprune.testing.models import dense_tflite

QUICK = ["--threads", "1", "--min-time", "0.05", "--max-time", "0.1", "--no-energy"]
BROKEN = "local:?python=/nowhere/python"


@dataclass
class Run:
    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture
def run(client_home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    play(monkeypatch)

    def call(*arguments: object) -> Run:
        code = main([str(argument) for argument in arguments])
        return Run(code, *capsys.readouterr())

    return call


@pytest.fixture
def bench(run, dense_model: Path):
    return lambda *arguments, model=dense_model: run("bench", model, *QUICK, *arguments)


@pytest.fixture
def large_model(tmp_path: Path) -> Path:
    """Many times as slow as ``dense_model``."""
    path = tmp_path / "large.tflite"
    path.write_bytes(dense_tflite(np.ones((1024, 2048), np.float32)))
    return path


def test_every_result_is_stored_listed_and_compared(bench, run, large_model: Path) -> None:
    assert run("history").out.startswith("Nothing was measured yet")
    first = bench("--label", "v1", "--json")
    assert (first.code, first.json["target"], first.json["history"]) == (0, "local:", [1])
    assert bench(model=large_model).code == 0
    listed = run("history", "--json").json
    assert [(entry["id"], entry["model_name"], entry["label"]) for entry in listed] == [
        (2, "large.tflite", None),
        (1, "dense.tflite", "v1"),
    ]
    assert listed[1]["measurement"] == first.json["measurements"][0]
    assert [entry["id"] for entry in run("history", "dense.tflite", "--json").json] == [1]
    assert "large.tflite" in run("history", "--limit", "1").out
    changed = run("compare", "v1", "latest", "--json").json
    assert [(item["latency"]["low"] > 1.5, item["differences"]) for item in changed] == [(True, {})]
    assert "dense.tflite takes 0." in run("compare", "latest", "latest~1").out


def test_files_of_results_are_compared_without_a_history(bench, run, tmp_path: Path, large_model: Path) -> None:
    for name, model in (("a", None), ("b", large_model)):
        done = bench("--json", "--history", "off", **({"model": model} if model else {}))
        assert done.json["history"] == []
        (tmp_path / f"{name}.json").write_text(done.out)
    found = run("compare", tmp_path / "a.json", tmp_path / "b.json", "--history", "off", "--json")
    assert found.code == 0
    assert found.json[0]["latency"]["low"] > 1.5
    changed = json.loads((tmp_path / "b.json").read_text())
    changed["measurements"][0]["threads"] = 4
    (tmp_path / "b.json").write_text(json.dumps(changed))
    refused = run("compare", tmp_path / "a.json", tmp_path / "b.json")
    assert (refused.code, refused.out) == (1, "")
    assert "different thread counts: 1 and 4" in refused.err
    forced = run("compare", tmp_path / "a.json", tmp_path / "b.json", "--force")
    assert forced.code == 0
    assert "different thread counts: 1 and 4" in forced.out


def test_gates_decide_the_exit_code_and_are_in_the_junit_report(bench, tmp_path: Path, large_model: Path) -> None:
    report = tmp_path / "junit.xml"
    good = bench("--label", "v1", "--fail-if", "latency:10s", "--fail-if", "memory:10GB", "--junit", report, "--json")
    assert good.code == 0
    assert [said["state"] for said in good.json["judged"][0]["gates"]] == ["passed", "passed"]
    slower = bench("--baseline", "v1", "--fail-if", "slower:5%", "--fail-if", "latency:10s", "--junit", report, model=large_model)
    assert slower.code == 4
    assert "failed slower:5%" in slower.out
    root = ET.parse(report).getroot()
    check_layout(root)
    assert (root.attrib["tests"], root.attrib["failures"]) == ("3", "1")
    undecided = bench("--fail-if", "energy:1J", "--junit", report)
    assert undecided.code == 3
    root = ET.parse(report).getroot()
    check_layout(root)
    assert root[0].attrib["skipped"] == "1"


def test_gates_of_a_baseline_that_is_measured_in_turns(bench, large_model: Path, dense_model: Path) -> None:
    slower = bench("--against", dense_model, "--fail-if", "slower:50%", "--json", model=large_model)
    assert slower.code == 4
    assert slower.json["comparisons"][0]["ratios"][0]["low"] > 1.5
    assert len(slower.json["history"]) == 2
    assert bench("--against", large_model, "--fail-if", "slower:50%").code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--label", "1234"], "cannot be a label"),
        (["--against", "x.tflite", "--profile"], "cannot be combined"),
        (["--fail-if", "slower:5%"], "needs --against or --baseline"),
        (["--fail-if", "slower"], "is not a condition"),
        (["--fail-if", "latency:15"], "no unit"),
        (["--against", "x.tflite", "--baseline", "latest"], "cannot be combined"),
    ],
)
def test_wrong_options_are_wrong_usage(bench, arguments: list[str], message: str) -> None:
    done = bench(*arguments)
    assert (done.code, done.out) == (2, "")
    assert message in done.err


@pytest.mark.parametrize("baseline", ["v9", "missing.json", "latest"])
def test_a_baseline_that_is_missing_is_reported_before_anything_is_measured(bench, run, baseline: str) -> None:
    done = bench("--baseline", baseline, "--fail-if", "slower:5%", "--json")
    assert (done.code, done.json["error"]["kind"], done.json["exit_code"]) == (1, "InputError", 1)
    assert baseline in done.err
    assert run("history").out.startswith("Nothing was measured yet")


def test_a_baseline_of_other_clocks_is_refused_and_the_result_is_kept(bench, run, client_home: Path) -> None:
    bench("--label", "v1")
    with sqlite3.connect(client_home / ".local/share/edgeprune/history.db") as database:
        stored = json.loads(database.execute("SELECT result FROM edgeprune_results").fetchone()[0])
        stored["before"]["governor"] = "unheard of"
        database.execute("UPDATE edgeprune_results SET result = ?", [json.dumps(stored)])
    database.close()
    refused = bench("--baseline", "v1", "--fail-if", "slower:500%", "--json")
    assert (refused.code, refused.json["error"]["kind"]) == (1, "IncomparableError")
    assert "clock governors: unheard of" in refused.err
    assert refused.json["measurements"][0]["latency_ms"] > 0
    assert len(run("history", "--json").json) == 2
    assert bench("--baseline", "v1", "--fail-if", "slower:500%", "--force").code == 0


@pytest.mark.parametrize("fault", ["damaged", "locked"])
def test_a_history_that_fails_does_not_lose_the_result(bench, tmp_path: Path, fault: str) -> None:
    path = tmp_path / "results.db"
    holder = None
    if fault == "damaged":
        path.write_bytes(b"no database" * 1000)
    else:
        bench("--history", f"sqlite:///{path}")
        holder = sqlite3.connect(path)
        holder.execute("BEGIN EXCLUSIVE")
    done = bench("--history", f"sqlite:///{path}?timeout=0.1", "--json")
    if holder:
        holder.close()
    assert done.code == 0
    assert done.json["measurements"][0]["latency_ms"] > 0
    assert (done.json["history"], "cannot be used" in done.json["history_error"]) == ([], True)
    assert done.err.count("error: the result was not stored") == 1


def test_a_device_that_fails_is_in_the_table_and_in_the_exit_code(bench, run) -> None:
    add_target("good", "local:")
    add_target("bad", BROKEN)
    add_target("worse", BROKEN)
    add_group("lab", ["bad", "good", "worse"])
    done = bench("--target", "lab", "--fail-if", "latency:10s")
    assert done.code == 12
    assert done.out.count("failed") == 2
    assert "error: bad: " in done.err
    assert "good  done" in done.err
    assert "bad  failed: " in done.err
    document = bench("--target", "good,bad", "--json")
    assert document.code == 11
    good, bad = document.json["devices"]
    assert (good["target"], bad["target"], document.json["failed"]) == ("good", "bad", 1)
    assert good["measurements"][0]["latency_ms"] > 0
    assert bad["error"]["kind"] == "NoRuntimeError"
    assert [entry["target"] for entry in run("history", "--json").json] == ["good", "good"]


def test_one_device_that_fails_is_an_error_with_a_junit_report(bench, tmp_path: Path) -> None:
    done = bench("--target", BROKEN, "--junit", tmp_path / "junit.xml", "--json")
    assert (done.code, done.json["error"]["kind"]) == (1, "NoRuntimeError")
    assert "/nowhere/python" in done.err
    root = ET.parse(tmp_path / "junit.xml").getroot()
    check_layout(root)
    assert root.attrib["errors"] == "1"


def test_a_junit_report_that_cannot_be_written_is_reported_before_anything_is_measured(bench, run, tmp_path: Path) -> None:
    done = bench("--junit", tmp_path / "missing/junit.xml", "--json")
    assert (done.code, done.json["error"]["kind"]) == (1, "InputError")
    assert "missing/junit.xml cannot be written" in done.err
    assert run("history").out.startswith("Nothing was measured yet")


def test_a_junit_report_that_fails_to_be_written_costs_no_result(bench, tmp_path: Path) -> None:
    long = tmp_path / ("x" * 300)  # longer than a file's name may be
    done = bench("--junit", long, "--json")
    assert done.code == 1
    assert done.json["measurements"][0]["latency_ms"] > 0
    assert "cannot be written: File name too long" in done.err
    assert list(tmp_path.glob(".*")) == []


def test_a_runtime_without_times_of_operators_says_so(bench) -> None:
    assert "--engine native" in bench("--profile").out
    assert ["--engine native" in note for note in bench("--profile", "--json").json["notes"]] == [True]
    assert bench("--json").json["notes"] == []


def test_names_are_printed_as_they_are(bench, run, dense_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    odd = tmp_path / "[bold]m:smile:.tflite"
    odd.write_bytes(dense_model.read_bytes())
    shown = bench("--label", "[red]", "--fail-if", "latency:10s", model=odd)
    assert shown.code == 0
    assert "[bold]m:smile:.tflite" in shown.out
    assert "[bold]m:smile:.tflite: " in run("compare", "[red]", "1").out
    add_target("six", "ssh://pi@[fe80::1]:22")
    assert "ssh://pi@[fe80::1]:22" in run("targets", "list").out


def test_an_interrupt_ends_all_and_leaves_nothing(client_home: Path, dense_model: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "edgeprune",
        "bench",
        str(dense_model),
        "--target",
        f"local:,{BROKEN}",
        "--min-time",
        "60",
        "--max-time",
        "90",
    ]
    heeding = partial(signal.signal, signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs deaf to it
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heeding)
    assert process.stderr is not None
    assert any("measuring dense.tflite" in line for line in process.stderr)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert "Interrupted" in err
    end = time.monotonic() + 20
    while list(client_home.glob(".cache/edgeprune/session-*")):
        assert time.monotonic() < end, "its folder was left"
        time.sleep(0.1)


def test_probing_a_group(run) -> None:
    add_target("good", "local:")
    add_target("bad", "local:?python=/nowhere/python")
    done = run("probe", "good,bad", "--json")
    assert done.code == 11
    assert [("cores" in item, "error" in item) for item in done.json["devices"]] == [(True, False), (False, True)]


def test_groups_are_made_and_listed(run) -> None:
    add_target("pi4", "ssh://pi4.lan")
    assert run("targets", "group", "lab", "pi4", "local:").out == "lab: pi4, local:\n"
    assert run("targets", "list", "--json").json[-1] == {"name": "lab", "members": ["pi4", "local:"]}
    assert "group: pi4, local:" in run("targets", "list").out
    assert run("targets", "remove", "lab").code == 0
    assert len(run("targets", "list", "--json").json) == 1
