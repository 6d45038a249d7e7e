"""The conversion worker: stopped at its time limit, started again when it has died, gone with its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from edgeprune.errors import ExportError
from edgeprune.export import cache, converter, export, warm
from edgeprune.export.converter import CONVERTER, Converter


@pytest.fixture(autouse=True)
def _empty_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    torch.manual_seed(0)


def convert(tmp_path: Path, **options: float) -> Path:
    return export(nn.Linear(4, 4), (torch.ones(1, 4),), ["tflite"], tmp_path / "out", **options)["tflite"]


PROGRAM = torch.export.export(nn.Linear(4, 4), (torch.ones(1, 4),))
ANSWERS = """
import json, sys
for line in sys.stdin:
    open(json.loads(line)["output"], "wb").write(b"converted")
    print('{"ok": true}', flush=True)
"""
HANGS = "import time; time.sleep(120)"
DIES = """
import os, sys
sys.stdin.readline()
print("out of words", file=sys.stderr, flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.fixture
def worker() -> Iterator[Callable[[str], Converter]]:
    """A converter whose child runs a stand-in's code: it starts at once."""
    made: list[Converter] = []

    def make(code: str) -> Converter:
        made.append(Converter([sys.executable, "-c", code]))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def gone(pid: int) -> bool:
    """Whether the process ends within 30 seconds."""
    for _ in range(300):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.1)
    return False


def test_one_worker_serves_many_conversions(tmp_path):
    convert(tmp_path)
    pid = CONVERTER.pid
    assert pid is not None
    warm()
    convert(tmp_path)
    assert CONVERTER.pid == pid


def test_a_conversion_is_stopped_at_its_time_limit(worker, tmp_path, monkeypatch):
    slow = worker(HANGS)
    monkeypatch.setattr(converter, "CONVERTER", slow)
    slow.warm()
    pid = slow.pid
    assert pid is not None
    with pytest.raises(ExportError, match=r"did not end within 0\.05 s and was stopped"):
        convert(tmp_path, time_limit_s=0.05)
    assert gone(pid)
    assert slow.pid is None, "the next conversion starts another worker"
    assert not (tmp_path / "out" / "model.tflite").exists()


def test_a_worker_that_dies_between_jobs_is_replaced(worker):
    mortal = worker(ANSWERS)
    assert mortal.convert(PROGRAM, 60) == b"converted"
    pid = mortal.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert gone(pid)
    assert mortal.convert(PROGRAM, 60) == b"converted"
    assert mortal.pid != pid


def test_a_worker_that_dies_in_a_job_is_an_error_with_its_signal_and_its_last_words(worker):
    with pytest.raises(ExportError, match=r"ended by signal SIGKILL: out of words\n.*out of memory"):
        worker(DIES).convert(PROGRAM, 60)


def test_the_worker_ends_with_its_parent():
    """The end of its standard input is its own, whatever it is doing: here it is still starting."""
    process = subprocess.Popen([sys.executable, "-m", "edgeprune.export.worker"], stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(120) == 0


def test_a_program_converted_before_needs_no_worker(worker, tmp_path, monkeypatch):
    first = convert(tmp_path).read_bytes()
    monkeypatch.setattr(converter, "CONVERTER", worker(DIES))
    torch.manual_seed(0)
    assert convert(tmp_path).read_bytes() == first


def test_the_cache_key_is_of_the_content():
    def key(model: nn.Module, *shape: int) -> str:
        return cache.program_key(torch.export.export(model.eval(), (torch.ones(shape),)))

    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    same = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    same.load_state_dict(model.state_dict())
    assert key(model, 1, 4) == key(same, 1, 4)
    other = {key(nn.Sequential(model[0], nn.ReLU6()), 1, 4), key(model, 2, 4)}
    with torch.no_grad():
        same[0].bias[3] += 1e-6
    assert len({key(model, 1, 4), key(same, 1, 4), *other}) == 4


def test_a_damaged_or_unwritable_cache_only_costs_time(tmp_path, monkeypatch):
    path = convert(tmp_path)
    (kept,) = (tmp_path / "cache").rglob("*.tflite")
    kept.write_bytes(b"damaged")
    torch.manual_seed(0)
    content = path.read_bytes()
    assert convert(tmp_path).read_bytes() == content
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    torch.manual_seed(0)
    assert convert(tmp_path).read_bytes() == content


def test_the_cache_drops_what_was_unused_for_longest(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "LIMIT_BYTES", 90)
    for age, key in ((30, "a"), (20, "b"), (10, "c")):
        cache.write(key, b"0000TFL3..")
        os.utime(tmp_path / "cache" / "edgeprune" / "export" / f"{key}.tflite", (time.time() - age, time.time() - age))
    assert cache.read("a") is None
    assert cache.read("b") == b"0000TFL3.."
    cache.write("d", b"0000TFL3..")
    assert cache.read("c") is None, "b was used after it"
    assert cache.read("b") is not None
