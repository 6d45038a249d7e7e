"""Waiting for a device's lock, and what is taken away with it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from edgeprune.targets.runner import hold
from edgeprune.targets.runner.protocol import RunnerError

from edgeprune.devices import clear
from edgeprune.devices.local import LocalSession
from edgeprune.errors import DeviceError


def _wait_for_a_held_lock(path: Path, say: Callable[[int], None], timeout_s: float) -> RunnerError:
    """What a waiter raises whose host does ``say`` with the other end of its standard input."""
    holder, waiter = hold.DeviceLock(str(path)), hold.DeviceLock(str(path))
    holder.acquire("another", 1, lambda *_, **__: None)
    saved, (reader, writer) = os.dup(0), os.pipe()
    os.dup2(reader, 0)
    try:
        say(writer)
        with pytest.raises(RunnerError) as caught:
            waiter.acquire("me", timeout_s, lambda *_, **__: None)
        return caught.value
    finally:
        os.dup2(saved, 0)
        for descriptor in (saved, reader, writer):
            os.close(descriptor)


def test_a_waiter_for_the_lock_gives_up_when_its_host_falls_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hold, "MAX_SILENCE_S", 0.5)
    error = _wait_for_a_held_lock(tmp_path / "lock", lambda writer: None, timeout_s=20)
    assert (error.kind, str(error)) == ("gone", "the host is gone")


def test_a_waiter_whose_host_speaks_waits_until_its_time_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = _wait_for_a_held_lock(tmp_path / "lock", lambda writer: os.write(writer, b"\n"), timeout_s=0.5)
    assert (error.kind, str(error)) == ("busy", "the device is in use by another")


class _Elsewhere(LocalSession):
    """This machine, as another device."""

    def __init__(self) -> None:
        super().__init__()
        self.address = "ssh://elsewhere"


def test_a_teardown_uses_the_python_of_the_address_and_takes_the_clocks_file(client_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = client_home / ".cache/edgeprune"
    cache.mkdir(parents=True)
    for name in ("tuned.json", "tuned.json.clocks"):
        (cache / name).write_text("{}")

    def discover(session: object, candidates: list[str]) -> None:
        raise DeviceError(f"asked for {candidates}")

    monkeypatch.setattr(clear, "connect", lambda address: _Elsewhere())
    monkeypatch.setattr(clear, "discover", discover)
    address = "ssh://elsewhere?python=/opt/python3"
    assert {Path(item.path).name for item in clear.tear_down(address, dry_run=True)} >= {"tuned.json", "tuned.json.clocks"}
    with pytest.raises(DeviceError, match=r"asked for \['/opt/python3'\]"):
        clear.tear_down(address)
    assert (cache / "tuned.json").exists()
