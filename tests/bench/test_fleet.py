"""Several devices at once, groups of them, and several users of one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from edgeprune.bench.fleet import side_by_side
from edgeprune.devices import Target, add_group, add_target, list_groups, list_targets, remove_target, resolve_target, resolve_targets
from edgeprune.devices.targets import targets_file
from edgeprune.errors import DeviceError, TargetError, UnreachableError

A, B, C = (Target(name, f"ssh://{name}") for name in "abc")


def test_all_run_at_once_and_come_back_in_order() -> None:
    together = threading.Barrier(3, timeout=20)

    def work(target: Target, _: Any) -> str:
        together.wait()
        return target.name * 2

    assert [(outcome.target, outcome.result) for outcome in side_by_side([C, A, B], work)] == [(C, "cc"), (A, "aa"), (B, "bb")]


def test_one_that_fails_does_not_disturb_the_others_and_says_why() -> None:
    events: list[tuple[str, str]] = []
    failed = threading.Event()

    def work(target: Target, tell: Any) -> int:
        tell({"event": "measuring"})
        if target is B:
            raise UnreachableError("b cannot be reached")
        assert failed.wait(20)
        return 1

    def note(target: Target, event: dict[str, Any]) -> None:
        events.append((target.name, event["event"]))
        if event["event"] == "failed":
            assert event["message"] == "b cannot be reached"
            failed.set()

    outcomes = side_by_side([A, B, C], work, note)
    assert [outcome.result for outcome in outcomes] == [1, None, 1]
    assert [type(outcome.error) for outcome in outcomes] == [type(None), UnreachableError, type(None)]
    assert events.index(("b", "failed")) < min(events.index((name, "done")) for name in "ac")


def test_a_fault_of_ours_costs_no_other_result_and_is_raised_of_one_alone() -> None:
    def work(target: Target, _: Any) -> str:
        if target is A:
            raise ZeroDivisionError("by zero")
        return target.name

    outcomes = side_by_side([A, B, C], work)
    assert [outcome.result for outcome in outcomes] == [None, "b", "c"]
    assert isinstance(outcomes[0].error, DeviceError)
    assert "ZeroDivisionError: by zero" in outcomes[0].error.message
    with pytest.raises(ZeroDivisionError):
        side_by_side([A], work)


def test_progress_that_cannot_be_shown_neither_hangs_nor_costs_a_result() -> None:
    def work(target: Target, tell: Any) -> int:
        tell({"event": "measuring"})
        if target is B:
            raise UnreachableError("b cannot be reached")
        return 1

    def closed(_: Target, __: dict[str, Any]) -> None:
        raise BrokenPipeError

    found: list[Any] = []
    caller = threading.Thread(target=lambda: found.extend(side_by_side([A, B], work, closed)), daemon=True)
    caller.start()
    caller.join(20)
    assert [(outcome.result, type(outcome.error)) for outcome in found] == [(1, type(None)), (None, UnreachableError)]


# groups


@pytest.fixture
def named(client_home: Path) -> None:
    for name in ("pi4", "pi5", "orin"):
        add_target(name, f"ssh://{name}.lan")


def names(text: str) -> list[str]:
    return [target.name for target in resolve_targets(text)]


def test_a_group_stands_for_its_members(named: None) -> None:
    assert add_group("lab", ["pi4", "pi5", "pi4"]) == ("pi4", "pi5")
    assert names("lab") == ["pi4", "pi5"]
    assert names("orin, lab,pi5,local:") == ["orin", "pi4", "pi5", "local:"]
    assert list_groups() == {"lab": ("pi4", "pi5")}
    assert [target.name for target in list_targets()] == ["orin", "pi4", "pi5"]
    add_group("lab", ["orin"])
    assert names("lab") == ["orin"]


def test_one_device_is_not_a_group(named: None) -> None:
    add_group("lab", ["pi4", "pi5"])
    with pytest.raises(TargetError, match="'lab' is a group") as caught:
        resolve_target("lab")
    assert "pi4, pi5" in str(caught.value.remedy)


def test_a_target_that_is_forgotten_leaves_its_groups(named: None) -> None:
    add_group("lab", ["pi4", "pi5"])
    add_group("lone", ["pi4"])
    remove_target("pi4")
    assert list_groups() == {"lab": ("pi5",)}
    remove_target("lab")
    assert list_groups() == {}
    assert len(list_targets()) == 2


@pytest.mark.parametrize(
    ("name", "members", "message"),
    [
        ("lab", ["pi7"], "unknown target 'pi7'"),
        ("lab", [], "no members"),
        ("pi4", ["pi5"], "name of a target"),
        ("a,b", ["pi5"], "cannot be a target's name"),
        ("lab", ["other"], "is a group"),
    ],
)
def test_a_wrong_group_is_refused(named: None, name: str, members: list[str], message: str) -> None:
    add_group("other", ["pi4"])
    with pytest.raises(TargetError, match=message):
        add_group(name, members)
    assert list(list_groups()) == ["other"]


@pytest.mark.parametrize("members", ['"pi4"', "[1]", "null"])
def test_a_damaged_group_is_reported(named: None, members: str) -> None:
    targets_file().write_text(f'{{"lab": {{"members": {members}}}}}')
    with pytest.raises(TargetError, match="damaged"):
        list_groups()


# several users, each with a process of its own

USER = """
import sys
from edgeprune.devices import open_runner
with open_runner(sys.argv[1], lock_timeout_s=600, on_event=lambda event: print(event["event"], event.get("holder"), flush=True)):
    print("has it", flush=True)
    sys.stdin.read()
"""


class User:
    """Another process that wants the device."""

    def __init__(self, address: str) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([sys.executable, "-c", USER, address], stdin=pipe, stdout=pipe, text=True)

    def wait_for(self, word: str) -> str:
        """Read until a line that begins so; fails at the end of its output."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(word):
                return line
        raise AssertionError(f"it ended without {word!r}")

    def die(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.mark.parametrize("address", ["local:", pytest.param("ssh://box", marks=pytest.mark.device)])
def test_users_queue_for_a_device_and_the_death_of_one_frees_it(address: str, client_home: Path, request: pytest.FixtureRequest) -> None:
    home = client_home if address == "local:" else request.getfixturevalue("sshd").home
    users = [User(address)]
    try:
        users[0].wait_for("has it")
        users.append(User(address))
        assert f"process {users[0].process.pid})" in users[1].wait_for("waiting")
        users[0].die()
        users[1].wait_for("has it")
        assert len(list(home.glob(".cache/edgeprune/session-*"))) == 1
        os.kill(users[1].process.pid, signal.SIGTERM)
    finally:
        for user in users:
            user.die()
