"""A run killed again and again, at every kind of step, ends with one plan and measures nothing twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from edgeprune.runs.document import read_inputs
from edgeprune.runs.events import EpochEnded, read_events

RECIPE = """
import torch
from torch import nn
import edgeprune

def task():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 48, 3, padding=1), nn.BatchNorm2d(48), nn.ReLU(), nn.Conv2d(48, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 4))
    images, labels = torch.randn(64, 3, 16, 16), torch.arange(64) % 4
    batches = [(images[:32], labels[:32]), (images[32:], labels[32:])]
    return edgeprune.Task(model, (torch.zeros(1, 3, 16, 16),), train=batches, validation=batches, epochs=3)
"""


def start(arguments: list[str], folder: Path, name: str = "prune") -> subprocess.Popen[bytes]:
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "edgeprune", name, *arguments]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def steps_of(run: Path) -> int:
    """How far a run has come: records, plans, artifacts, and the log's lines."""
    records = (run / "measurements.jsonl").read_bytes().count(b"\n") if (run / "measurements.jsonl").exists() else 0
    log = (run / "log.txt").read_bytes().count(b"\n") if (run / "log.txt").exists() else 0
    return records + log + len(list(run.glob("plans/*"))) + len(list(run.glob("*.safetensors")))


def kill_after(process: subprocess.Popen[bytes], runs: Path, steps: int) -> bool:
    """Kill the process when its run has made ``steps`` more steps; whether it was still running then."""
    limit, before = time.monotonic() + 120, None
    while process.poll() is None and time.monotonic() < limit:
        for run in runs.glob("*"):
            now = steps_of(run)
            before = now if before is None else before
            if now >= before + steps:
                process.send_signal(signal.SIGKILL)
                process.wait()
                return True
        time.sleep(0.01)
    return False


@pytest.mark.soak
def test_a_run_killed_at_many_points_ends_with_one_plan(tmp_path: Path) -> None:
    (tmp_path / "recipe.py").write_text(RECIPE)
    options = ["--target", "local:", "--latency", "60%", "--engine", "torchscript", "--format", "torchscript", "--threads", "1"]
    process = start(["recipe.py", *options], tmp_path)
    kills = int(kill_after(process, tmp_path / "runs", 2))
    (run,) = (tmp_path / "runs").iterdir()
    for steps in (1, 3, 2, 4):
        kills += kill_after(start(["--resume", str(run)], tmp_path), tmp_path / "runs", steps)
    last = start(["--resume", str(run), "--json"], tmp_path)
    summary = json.loads(last.communicate(timeout=600)[0])
    assert last.returncode == 0
    assert kills >= 3

    keys = [json.loads(line)["key"] for line in (run / "measurements.jsonl").read_text().splitlines()]
    assert len(keys) == len(set(keys))
    plan = (run / "plan.json").read_text()
    again = start(["--resume", str(run), "--json"], tmp_path)
    assert json.loads(again.communicate(timeout=600)[0])["groups"] == summary["groups"]
    assert (run / "plan.json").read_text() == plan
    assert [json.loads(line)["key"] for line in (run / "measurements.jsonl").read_text().splitlines()] == keys
    assert read_inputs(run)["target"] == "local:"


GATED = """
import pathlib, time

class Gated(list):
    def set_epoch(self, epoch):
        while epoch == 1 and not pathlib.Path({gate!r}).exists():
            time.sleep(0.01)

ungated = task

def task():
    made = ungated()
    made.train = Gated(made.train)
    return made
"""


@pytest.mark.soak  # five processes with PyTorch; tests/search/test_side_by_side.py kills a worker, and interrupts the command
def test_a_frontier_killed_while_workers_train_goes_on_from_their_epochs(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    (tmp_path / "recipe.py").write_text(RECIPE + GATED.format(gate=str(gate)))
    options = ["--profile", "raspberry-pi-4", "--kind", "macs", "--levels", "60%,40%", "--engine", "torchscript", "--format", "torchscript"]
    killed = start(["recipe.py", *options, "--workers", "2", "--runs", "apart"], tmp_path, "frontier")
    limit = time.monotonic() + 300
    while len(list(tmp_path.glob("apart/*/*/tune-final-0-*.safetensors"))) < 2 and time.monotonic() < limit:
        time.sleep(0.05)
    workers = psutil.Process(killed.pid).children(recursive=True)
    killed.kill()
    killed.communicate()
    (folder,) = (tmp_path / "apart").iterdir()
    assert len(psutil.wait_procs(workers, timeout=60)[0]) == len(workers) >= 2
    before = {path.parent.name for path in folder.glob("*/tune-final-0-*.safetensors")}
    assert before == {"macs-60pct", "macs-40pct"}

    gate.touch()
    again = start(["--resume", str(folder), "--workers", "2", "--json"], tmp_path, "frontier")
    found = json.loads(again.communicate(timeout=600)[0])
    alone = start(["recipe.py", *options, "--runs", "alone", "--json"], tmp_path, "frontier")
    expected = json.loads(alone.communicate(timeout=600)[0])
    assert again.returncode == alone.returncode
    for one, other in zip(found["points"], expected["points"], strict=True):
        path, same = tmp_path / one["run"], tmp_path / other["run"]
        made, wanted = (json.loads((run / "run.json").read_text())["result"] for run in (path, same))
        assert made["history"] == wanted["history"]
        assert made["artifacts"]["torchscript"]["sha256"] == wanted["artifacts"]["torchscript"]["sha256"]
        epochs = [event.epoch for _, event in read_events(path) if isinstance(event, EpochEnded)]
        assert epochs[-2:] == [2, 3]  # the first was not trained again
        assert epochs[:-2] in ([], [1])  # it may have been kept, and not yet told
