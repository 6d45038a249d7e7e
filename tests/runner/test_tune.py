"""Clocks held still, and what was there put back: at the end, after a failure, and when the process or its guard is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from edgeprune.targets.runner import tune
from edgeprune.targets.runner.protocol import RunnerError

from edgeprune.devices import build_runner

OWNER = """
import sys, time
sys.path.insert(0, sys.argv[1])
program, folder, root = sys.argv[1:4]
sys.argv = [program]
from edgeprune_runner import tune
with tune.tuned(True, folder, root) as done:
    print(done, flush=True)
    time.sleep(60)
"""


def _governor(root: Path, cpu: int) -> Path:
    return root / f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor"


@pytest.fixture
def board(tmp_path: Path) -> Path:
    """Two processors with different governors."""
    for cpu, governor in ((0, "ondemand"), (1, "schedutil")):
        path = _governor(tmp_path, cpu)
        path.parent.mkdir(parents=True)
        path.write_text(governor + "\n")
        (path.parent / "scaling_available_governors").write_text("performance ondemand schedutil\n")
    return tmp_path


@pytest.fixture(autouse=True)
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The runner's file, which starts the guard."""
    path = tmp_path / "runner.pyz"
    path.write_bytes(build_runner()[1])
    monkeypatch.setattr(sys, "argv", [str(path)])
    return path


def governors(root: Path) -> list[str]:
    return [_governor(root, cpu).read_text().strip() for cpu in (0, 1)]


def until(condition: Callable[[], bool]) -> bool:
    """Whether it becomes true within some seconds."""
    end = time.monotonic() + 10
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def restored(root: Path) -> bool:
    return governors(root) == ["ondemand", "schedutil"] and not (root / tune.STATE_FILE).exists()


def test_the_governor_is_set_and_restored(board: Path) -> None:
    with tune.tuned(True, str(board), str(board)) as done:
        assert done == ["governor performance"]
        assert governors(board) == ["performance", "performance"]
        assert json.loads((board / tune.STATE_FILE).read_text())["governors"]
        assert not tune.restore(str(board / tune.STATE_FILE))  # its owner lives
    assert restored(board)


def test_it_is_restored_after_a_failure(board: Path) -> None:
    with pytest.raises(ZeroDivisionError), tune.tuned(True, str(board), str(board)):
        raise ZeroDivisionError
    assert restored(board)


def _owner(program: Path, root: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", OWNER, str(program), str(root), str(root)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert "performance" in process.stdout.readline()
    assert governors(root) == ["performance", "performance"]
    return process


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_the_guard_restores_when_the_runner_is_killed(board: Path, program: Path) -> None:
    with _owner(program, board) as owner:
        owner.send_signal(signal.SIGKILL)
    assert until(lambda: restored(board))


def test_the_next_run_restores_when_the_guard_is_killed_too(board: Path, program: Path) -> None:
    with _owner(program, board) as owner:
        (guard,) = _children(owner.pid)
        os.kill(guard, signal.SIGKILL)
        owner.send_signal(signal.SIGKILL)
    assert governors(board) == ["performance", "performance"]
    with tune.tuned(False, str(board), str(board)) as done:
        assert done == []
        assert restored(board)


def test_holding_the_device_restores_what_a_dead_run_left(board: Path, program: Path) -> None:
    (board / tune.STATE_FILE).write_text(
        json.dumps({"root": str(board), "governors": {str(_governor(board, 0).relative_to(board)): "ondemand"}, "jetson_clocks": None})
    )
    _governor(board, 0).write_text("performance\n")
    _hold(program, {"base": str(board), "lock": False})
    assert governors(board)[0] == "performance"  # without the lock the device is another's
    _hold(program, {"base": str(board), "lock": True, "owner": "test", "timeout_s": 600})
    assert restored(board)


def _hold(program: Path, request: dict) -> None:
    """Hold the device until that is told, then let it go."""
    with subprocess.Popen([sys.executable, str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(request | {"action": "hold"}) + "\n")
        process.stdin.flush()
        assert any(json.loads(line)["event"] == "held" for line in process.stdout)
        process.stdin.close()


def test_a_damaged_state_file_is_removed(board: Path) -> None:
    (board / tune.STATE_FILE).write_text('{"root": ')
    assert not tune.restore(str(board / tune.STATE_FILE))
    assert restored(board)


def test_a_device_that_cannot_be_tuned_says_so(board: Path, tmp_path: Path) -> None:
    with pytest.raises(RunnerError, match="nothing to tune"), tune.tuned(True, str(board), str(board / "sys")):
        pass
    (_governor(board, 1).parent / "scaling_available_governors").write_text("powersave\n")
    with pytest.raises(RunnerError, match="no governor performance, only powersave"), tune.tuned(True, str(board), str(board)):
        pass
    assert restored(board)


@pytest.fixture
def talking_input() -> Iterator[None]:
    """A standard input on which the host says something."""
    saved, (reader, writer) = os.dup(0), os.pipe()
    os.write(writer, b"\n\n\n\n")
    os.dup2(reader, 0)
    yield
    os.dup2(saved, 0)
    for descriptor in (saved, reader, writer):
        os.close(descriptor)


def test_jetson_clocks_are_stored_and_restored(board: Path, monkeypatch: pytest.MonkeyPatch, talking_input: None) -> None:
    tool = board / "bin/jetson_clocks"
    tool.parent.mkdir()
    tool.write_text(
        f'#!/bin/sh\necho "$@" >> {board}/calls\nread answer && exit 3\n'
        '[ "$1" = --store ] || exit 0\n[ ! -e "$2" ] || exit 2\necho saved > "$2"\n'
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(tune.os, "geteuid", lambda: 0)
    stored = f"{board}/{tune.STATE_FILE}.clocks"
    Path(stored).write_text("of a run that died")
    with tune.tuned(True, str(board), str(board)) as done:
        assert done == ["governor performance", "jetson_clocks"]
        assert Path(stored).exists()
    assert (board / "calls").read_text().splitlines() == [f"--store {stored}", "", f"--restore {stored}"]
    assert restored(board)
    assert not Path(stored).exists()


def test_what_cannot_be_put_back_keeps_nothing_else_from_it(board: Path) -> None:
    clocks = tune.tuned(True, str(board), str(board))
    clocks.__enter__()
    _governor(board, 0).unlink()
    _governor(board, 0).mkdir()
    with pytest.raises(RunnerError, match="cpu0/cpufreq/scaling_governor cannot be set to ondemand: Is a directory"):
        clocks.__exit__(None, None, None)
    assert _governor(board, 1).read_text() == "schedutil"
    with tune.tuned(False, str(board), str(board)):  # what the next holder does first
        pass
    _governor(board, 0).rmdir()
    assert tune.restore(str(board / tune.STATE_FILE))
