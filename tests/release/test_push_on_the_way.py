"""Releases on a device behind a real SSH server: what goes wrong on the way of a push, and what a push costs."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from release_faults import Box, which
from release_kit import Gate

from edgeprune.devices import Target
from edgeprune.errors import (
    ConnectionLostError,
    DeviceBusyError,
    DeviceFullError,
    ReleaseError,
    TransientError,
)
from edgeprune.release.deploy.installed import rollback
from edgeprune.release.deploy.push import Pushed

pytestmark = pytest.mark.device


class Counter:
    """A way to a server that counts the bytes that pass."""

    def __init__(self, port: int) -> None:
        self._port, self.sent, self.received = port, 0, 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                here = self._listener.accept()[0]
                there = socket.create_connection(("127.0.0.1", self._port))
                threading.Thread(target=self._copy, args=(here, there, "sent"), daemon=True).start()
                threading.Thread(target=self._copy, args=(there, here, "received"), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket, name: str) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                setattr(self, name, getattr(self, name) + len(data))
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def test_an_unchanged_release_takes_less_than_10_kb(box: Box, client_home: Path) -> None:
    big = np.random.default_rng(0).bytes(300_000)
    bundle = box.kit.bundle("1.0.0", 1, contents={"big.bin": big})
    counter = Counter(box.server.port)
    with (client_home / ".ssh/known_hosts").open("a") as file:
        file.write(box.server.host_key.replace(str(box.server.port), str(counter.port)))
    target = Target("box", box.server.address.replace(str(box.server.port), str(counter.port)))
    assert box.push(bundle, target=target).state == "committed"
    assert counter.sent > len(big)
    counter.sent = counter.received = 0
    assert box.push(bundle, target=target).state == "unchanged"
    print(f"unchanged: {counter.sent} bytes to the device, {counter.received} from it, the keys' exchange included")
    assert counter.sent + counter.received < 10_000


def test_a_link_that_is_cut_while_a_file_is_sent_costs_what_was_under_way_alone(box: Box) -> None:
    big = np.random.default_rng(0).bytes(12 << 20)
    old, new = box.kit.bundle("1.0.0", 1), box.kit.bundle("1.1.0", 2, contents={"big.bin": big})
    box.push(old)

    def cut(event: dict[str, Any]) -> None:
        if event["event"] == "upload" and 4 << 20 <= event["sent"] < event["total"]:
            box.server.drop_connections()

    with pytest.raises(ConnectionLostError):
        box.push(new, cut)
    assert which(box.root(), {"old": old}) == "old"
    first: list[int] = []
    box.push(new, lambda event: first.append(event["sent"]) if event["event"] == "upload" and event["name"] == "big.bin" else None)
    assert min(first) > 2 << 20  # the first that is told is behind what was there
    assert which(box.root(), {"new": new}) == "new"


def test_a_link_that_is_cut_once_is_opened_again(box: Box) -> None:
    old, new = box.kit.bundle("1.0.0", 1), box.kit.bundle("1.1.0", 2)
    box.push(old)
    for name in ("staging", "committing"):
        cut = []

        def tell(event: dict[str, Any], name: str = name, cut: list[str] = cut) -> None:
            if event["event"] == name and not cut:
                cut.append(name)
                box.server.drop_connections()

        done = box.push(new, tell, retries=1)
        assert cut == [name]
        assert (done.version, done.recovered) == (new.stem.removeprefix("gadget-"), "1.2.0" if name == "committing" else None)
        new = box.kit.bundle("1.2.0", 3)


@pytest.mark.parametrize(("moment", "after", "found"), [("health", None, "old"), ("switching", "sleep 600", "new")])
def test_a_device_that_dies_while_it_checks_or_starts_a_release(box: Box, moment: str, after: str | None, found: str) -> None:
    box.kit.runs = True
    limits = {"any": {"gates": (Gate("latency", 1000.0),)}}
    bundles = {"old": box.kit.bundle("1.0.0", 1, limits), "new": box.kit.bundle("1.1.0", 2, limits)}
    box.push(bundles["old"])
    seen: list[str] = []

    def die() -> None:
        box.server.stop()
        subprocess.run(["pkill", "-KILL", "-u", box.server.user], check=False)
        box.server.start()

    def tell(event: dict[str, Any]) -> None:
        seen.append(event["event"])
        if moment == "health" and seen[-2:-1] == ["health"]:
            die()  # the runner measures
        elif seen[-1] == moment == "switching":
            threading.Timer(3.0, die).start()  # the program is being started

    with pytest.raises(TransientError):
        box.push(bundles["new"], tell, after=after)
    assert which(box.root(), bundles) == found  # on trial, and whole
    assert box.status().committed == "1.0.0"
    done = box.push(bundles["new"])
    assert (done.state, done.recovered) == ("committed", "1.1.0" if found == "new" else None)


@pytest.fixture
def small_disk(box: Box) -> Iterator[Path]:
    """Where a disk of 1 MB of the device, on which the box releases, is seen from here."""
    assert box.server._process is not None
    folder, enter = f"{box.base}-disk", ["nsenter", "--mount", f"--target={box.server._process.pid}"]
    subprocess.run(["install", "-d", "-m", "777", folder], check=True)
    subprocess.run([*enter, "mount", "-t", "tmpfs", "-o", "size=1m,mode=777", "tmpfs", folder], check=True)
    box.base = f"/proc/{box.server._process.pid}/root{folder}"
    box.options = replace(box.options, base=folder)
    yield Path(box.base)
    subprocess.run([*enter, "umount", folder], check=True)


def test_a_full_disk_leaves_what_was_there(box: Box, small_disk: Path) -> None:
    old = box.kit.bundle("1.0.0", 1)
    box.push(old)
    with pytest.raises(DeviceFullError, match="free, and this release needs"):
        box.push(box.kit.bundle("1.1.0", 2, contents={"big.bin": np.random.default_rng(0).bytes(3 << 20)}))
    box.keeps(old)
    filler = small_disk / "filler"

    def fill(at: str, event: dict[str, Any]) -> None:
        """Somebody else takes all that is left."""
        if event["event"] == at:
            with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))

    new = box.kit.bundle("1.1.0", 2, contents={"big.bin": np.random.default_rng(0).bytes(100_000)})
    for at in ("upload", "staging", "health", "switching", "committing"):
        with pytest.raises(DeviceFullError):
            box.push(new, partial(fill, at))
        assert which(box.root(), {"old": old, "new": new}) == "old"
        filler.unlink()
    assert box.status().committed == "1.0.0"
    assert box.push(new).previous == "1.0.0"
    assert which(box.root(), {"new": new}) == "new"


def test_of_two_pushes_at_once_the_second_waits(box: Box) -> None:
    first, second = box.kit.bundle("1.0.0", 1), box.kit.bundle("1.1.0", 2)
    waiting, in_the_middle, go_on = threading.Event(), threading.Event(), threading.Event()
    done: list[Pushed] = []

    def hold(event: dict[str, Any]) -> None:
        if event["event"] == "switching":
            in_the_middle.set()
            go_on.wait(60)

    def notice(event: dict[str, Any]) -> None:
        if event["event"] == "waiting":
            waiting.set()
            go_on.set()

    one = threading.Thread(target=lambda: done.append(box.push(first, hold)))
    one.start()
    assert in_the_middle.wait(60)
    with pytest.raises(DeviceBusyError, match="in use by"):
        box.push(second, lock_timeout_s=0.2)
    other = threading.Thread(target=lambda: done.append(box.push(second, notice)))
    other.start()
    assert waiting.wait(60)
    one.join(60)
    other.join(60)
    assert [(item.version, item.previous) for item in done] == [("1.0.0", None), ("1.1.0", "1.0.0")]
    assert which(box.root(), {"second": second}) == "second"


def test_a_rollback_in_the_middle_of_a_push_wins(box: Box) -> None:
    for number in (1, 2):
        box.push(box.kit.bundle(f"1.{number}.0", number))

    def back(event: dict[str, Any]) -> None:
        if event["event"] == "switching":
            rollback(box.target, base=box.base)

    with pytest.raises(ReleaseError, match="another push has begun") as caught:
        box.push(box.kit.bundle("1.3.0", 3), back)
    assert not isinstance(caught.value, TransientError)
    found = box.status()
    assert (found.current, found.committed, found.pending) == ("1.1.0", "1.1.0", None)


def test_a_folder_that_others_own_is_named(box: Box) -> None:
    with pytest.raises(Exception, match="/opt/nobody"):
        box.push(box.kit.bundle("1.0.0", 1), base="/opt/nobody")
    with pytest.raises(ReleaseError, match="not an absolute path"):
        box.push(box.kit.bundle("1.0.0", 1), base="here")
    assert subprocess.run(["ls", "/opt/nobody"], capture_output=True, check=False).returncode != 0
