"""``edgeprune bench --sustained``: what it prints of a board that got hot, and on this machine, for five seconds."""

from __future__ import annotations

import json

import pytest
import torch

from edgeprune.bench.sustained import Curve, Point, State, Sustained
from edgeprune.cli import main
from edgeprune.cli.sustained import print_sustained
from edgeprune.report.sustained import page
from edgeprune.report.vega import available


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name, width in (("small", 8), ("large", 512)):
        traced = torch.jit.trace(torch.nn.Sequential(torch.nn.Linear(64, width), torch.nn.Linear(width, 64)), torch.zeros(1, 64))
        traced.save(str(folder / f"{name}.pt"))
    return folder


def test_what_is_printed_of_a_board_that_got_hot(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    times = [5.0 * number for number in range(1, 121)]
    points = {
        "steep.tflite": tuple(Point(time, 1e7 if time < 200 else 1.5e7, 1.6e7, 9) for time in times),
        "flat.tflite": tuple(Point(time, 1.1e7 if time < 200 else 1.2e7, 1.6e7, 9) for time in times),
    }
    states = tuple(State(time, (1800.0 if time < 200 else 1200.0,), 1800.0, {"cpu": 48 + time / 20}) for time in times)
    states += (State(600.0, reasons=("cpu is at 80.0 C, the limit is 80.0 C",)),)
    curves = tuple(Curve(name, "litert", "2", found) for name, found in points.items())
    found = Sustained("pi4", "a Pi", 4, 600.0, curves, states)
    text = page(found)
    assert "10 minutes under load" in text
    assert "Ranking: steep.tflite &lt; flat.tflite; at last flat.tflite &lt; steep.tflite." in text
    assert text.count("<svg") == (3 if available() else 0)
    print_sustained(found)
    out = capsys.readouterr().out
    assert "steep.tflite: 10 ms at first, 15 ms at last (+50.0%): slower" in out
    assert "ranking: steep.tflite < flat.tflite at first, flat.tflite < steep.tflite at last" in out
    assert "throttled: cpu is at 80.0 C" in out
    row = next(line for line in out.splitlines() if "1:00" in line)
    assert all(text in row for text in ("10 ms", "11 ms", "51 C", "1800 MHz"))


@pytest.mark.soak
def test_two_models_under_load(models, capsys):
    paths = [str(models / f"{name}.pt") for name in ("small", "large")]
    arguments = ["bench", paths[0], "--beside", paths[1], "--sustained", "5s", "--threads", "1", "--input", "1x64", "--json"]
    assert main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert [model["name"] for model in found["models"]] == ["small.pt", "large.pt"]
    assert found["threads"] == 1
    for model in found["models"]:
        times = [point["time_s"] for point in model["points"]]
        assert times == sorted(times)
        assert len(times) == 5
        assert model["first_ms"] > 0
    assert len(found["states"]) == 6
    assert found["ranking_first"] == ["small.pt", "large.pt"]


def test_what_does_not_go_together(models, capsys):
    path = str(models / "small.pt")
    for extra, said in (
        (["--sustained", "soon"], "is not a duration"),
        (["--sustained", "10s", "--fail-if", "latency:1ms"], "--sustained and --fail-if"),
        (["--sustained", "10s", "--threads", "1,2"], "one number of threads"),
        (["--beside", path], "--beside needs --sustained"),
        (["--report", "r.html"], "--report needs --sustained"),
    ):
        assert main(["bench", path, *extra]) == 2
        assert said in capsys.readouterr().err
