"""The machine that edgeprune runs on: what of it is free, who else uses it, the end of process trees, and hosts that are not POSIX."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from torch import nn

from edgeprune import Task, analyze, host
from edgeprune.bench import Artifact, BenchOptions, open_device
from edgeprune.files import locked
from edgeprune.search.events import EventStream
from edgeprune.search.room import needed_bytes, own_threads, warn_of_memory
from edgeprune.testing.sshd import SshServer
from edgeprune.tuning.rehearse import first_batch

ROOT = Path(__file__).parents[1]
BUSY = "import time\nend = time.monotonic() + 60\nwhile time.monotonic() < end: pass"
POSIX = {"fcntl", "pwd", "grp", "resource", "termios", "tty", "pty"}


def orphan() -> int:
    """A process that computes and has no parent here, as if somebody else had started it."""
    quiet = "stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL"  # else whoever reads this process's output waits for it to end
    code = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {BUSY!r}], {quiet}).pid)"
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_process_ends_with_all_that_it_started() -> None:
    inner = (
        f"import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', {BUSY!r}]); print(p.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", inner], stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        host.end_tree(process.pid)
        process.wait()
    for _ in range(100):
        if not alive(child):
            break
        time.sleep(0.05)
    assert not alive(child)
    host.end_tree(process.pid)  # it is gone: not an error


def test_a_watch_names_who_computes_and_leaves_out_its_own() -> None:
    watch = host.Watch()
    mine = subprocess.Popen([sys.executable, "-c", BUSY])
    theirs = orphan()
    try:
        time.sleep(1.0)
        share, found = watch.others()
    finally:
        for pid in (mine.pid, theirs):
            host.end_tree(pid)
        mine.wait()
    assert theirs in [one.pid for one in found]
    assert mine.pid not in [one.pid for one in found]
    assert 0 < share <= 1
    assert str(host.Disturber("python", 4711, 0.94)) == "python, pid 4711, 94 %"


@pytest.mark.device
def test_a_benchmark_here_names_the_process_that_disturbs_it(dense_model: Path, client_home: Path) -> None:
    theirs = [orphan(), orphan()]
    options = BenchOptions(threads=1, min_time_s=0.3, max_time_s=0.6, warmup_s=0.1, energy=False)
    try:
        with open_device("local:") as device:
            (measured,) = device.measure([Artifact(dense_model)], options)
    finally:
        for pid in theirs:
            host.end_tree(pid)
    disturbed = [text for text in measured.warnings if "something else was running" in text]
    assert disturbed
    assert "pid " in disturbed[0]
    assert "load average" not in disturbed[0]


def test_cores_are_those_of_the_affinity_and_of_the_quota(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(host, "_CGROUP", tmp_path)
    monkeypatch.setattr(psutil.Process, "cpu_affinity", lambda self: list(range(8)))
    assert host.cores() == 8
    (tmp_path / "cpu.max").write_text("250000 100000\n")
    assert host.cores() == 2
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert host.cores() == 8
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("400\n")
    assert host.free_memory() == 600


def test_a_run_computes_with_as_many_threads_as_it_has_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(host, "threads", lambda: 1)
    with own_threads():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_a_run_that_does_not_fit_says_so_before_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 8, 3, padding=1))
    task = Task(model, (torch.zeros(1, 3, 32, 32),), train=[(torch.zeros(50, 3, 32, 32), torch.zeros(50))])
    analysis = analyze(task.model, task.example_inputs)
    first = first_batch(task)
    needed = needed_bytes(task, analysis, first)
    assert needed == pytest.approx(50 * 4 * 32 * 32 * (64 + 64 + 8), rel=0.05)
    notes: list[str] = []
    events = EventStream(lambda event: notes.append(str(event.text)))
    warn_of_memory(task, analysis, first, events)
    assert notes == []
    monkeypatch.setattr(host, "free_memory", lambda: needed // 2)
    warn_of_memory(task, analysis, first, events)
    assert "a training step needs about" in notes[0]
    assert "smaller batches" in notes[0]


def test_one_process_at_a_time_is_in_a_locked_block(tmp_path: Path) -> None:
    path, environment = tmp_path / "file", {**os.environ, "PYTHONPATH": str(ROOT)}
    code = f"from edgeprune.files import locked; from pathlib import Path\nwith locked(Path({str(path)!r})): print('in', flush=True)"
    with locked(path):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2)
    assert process.communicate(timeout=60)[0] == "in\n"


@pytest.mark.parametrize("path", sorted((ROOT / "edgeprune").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_imports_what_only_posix_has(path: Path) -> None:
    if "testing" in path.parts:
        return
    for node in ast.walk(ast.parse(path.read_text())):
        names = (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module]
            if isinstance(node, ast.ImportFrom)
            else []
        )
        assert not POSIX & {str(name).split(".")[0] for name in names}, f"{path}:{node.lineno}"


RECIPE = """
import torch
from torch import nn
from edgeprune import Task

def task():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.Flatten(), nn.Linear(256, 3))
    data = [(torch.randn(8, 1, 8, 8), torch.randint(0, 3, (8,))) for _ in range(2)]
    return Task(model.eval(), (torch.zeros(1, 1, 8, 8),), data, data, epochs=1, name="tiny")
"""


def as_on_windows(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tests" / "windows_host.py"), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.soak
def test_a_windows_host_exports(tmp_path: Path, client_home: Path) -> None:
    (tmp_path / "tiny.py").write_text(RECIPE)
    done = as_on_windows(tmp_path, "export", "tiny.py", "--format", "tflite,pt2", "--output", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert sorted(path.suffix for path in (tmp_path / "out").iterdir()) == [".pt2", ".tflite"]


@pytest.mark.device
def test_a_windows_host_benches_and_prunes_over_ssh(tmp_path: Path, sshd: SshServer, dense_model: Path) -> None:
    (tmp_path / "tiny.py").write_text(RECIPE)
    done = as_on_windows(tmp_path, "bench", str(dense_model), "--target", "ssh://box", "--threads", "1", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)
    budget = ["--target", "ssh://box", "--macs", "60%", "--threads", "1", "--measurements", "1", "--no-sensitivity"]
    done = as_on_windows(tmp_path, "prune", "tiny.py", *budget, "--format", "tflite,pt2", "--runs", str(tmp_path / "runs"))
    assert done.returncode == 0, done.stderr  # a counted budget is met however busy the machine is
    assert "measured" in done.stdout
