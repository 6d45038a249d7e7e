"""Releases on a device behind a real SSH server: what is refused, what goes back by itself, what goes wrong on the way."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from release_faults import own_lock, which
from release_kit import Compatibility, Gate, Kit, Runtime, make_key, npy

from edgeprune.devices import Target
from edgeprune.errors import (
    ConnectionLostError,
    DeviceBusyError,
    DeviceFullError,
    ExpiredError,
    HealthError,
    IncompatibleError,
    OlderReleaseError,
    ReleaseError,
    SignatureError,
    TransientError,
)
from edgeprune.release import Bundle
from edgeprune.release.deploy import health_check
from edgeprune.release.deploy.installed import Status, prune_releases, rollback, status
from edgeprune.release.deploy.push import Pushed, PushOptions, push
from edgeprune.testing.models import crashing_tflite
from edgeprune.testing.sshd import SshServer, find_sshd

pytestmark = pytest.mark.device


class Box:
    """A device, and the folder on it that this test releases to."""

    def __init__(self, server: SshServer, folder: Path) -> None:
        self.server, self.kit = server, Kit(folder)
        self.base = f"{server.home}/{folder.name}"
        self.target = Target("box", server.address)
        self.options = PushOptions(base=self.base, signers=self.kit.allowed, retries=0)

    def push(self, bundle: Path, tell: Any = None, now: datetime | None = None, target: Target | None = None, **changes: Any) -> Pushed:
        with Bundle.open(bundle) as opened:
            return push(opened, target or self.target, replace(self.options, **changes), tell, now)

    def status(self) -> Status:
        (found,) = status(self.target, self.options.base, deep=True)
        return found

    def root(self) -> Path:
        return Path(self.base) / "gadget"

    def keeps(self, bundle: Path) -> None:
        """This release, whole, is in use and committed; nothing else is there."""
        assert which(self.root(), {"it": bundle}) == "it"
        found = self.status()
        assert (found.current, found.pending) == (found.committed, None)
        assert [release.version for release in found.releases] == [found.committed]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    if find_sshd() is None or os.getuid() != 0:
        pytest.skip("needs sshd, and root to give it a lock of its own")
    with SshServer(enter=own_lock(tmp_path_factory.mktemp("lock"))) as server:
        server.make_python()
        yield server


@pytest.fixture
def box(server: SshServer, client_home: Path, tmp_path: Path) -> Box:
    (client_home / ".ssh/known_hosts").write_text(server.host_key)
    (client_home / ".ssh/config").write_text(f"Host *\n  IdentityFile {server.key}\n")
    tmp_path.chmod(0o755)
    return Box(server, tmp_path)


# refused


def test_an_older_release_is_refused_and_so_is_another_of_the_same_sequence(box: Box) -> None:
    older, newer = box.kit.bundle("1.0.0", 5), box.kit.bundle("1.1.0", 6)
    box.push(older)
    box.push(newer)
    with pytest.raises(OlderReleaseError, match=r"has had release 1\.1\.0 of sequence 6, and 1\.0\.0 is of sequence 5"):
        box.push(older)
    rollback(box.target, base=box.base)
    with pytest.raises(OlderReleaseError):  # having gone back is no leave to go further back
        box.push(box.kit.bundle("1.0.1", 5))
    with pytest.raises(OlderReleaseError, match="another one of that sequence"):
        box.push(box.kit.bundle("1.2.0", 6, shared=b"another"))
    assert box.status().current == "1.0.0"
    assert box.push(newer).state == "committed"  # the very same may come back


def test_an_expired_release_is_refused_by_this_clock_and_by_what_the_device_has_seen(box: Box) -> None:
    bundle = box.kit.bundle("1.0.0", 1, expires="2026-06-01T00:00:00Z")
    moment = datetime(2026, 6, 1, tzinfo=UTC)
    with pytest.raises(ExpiredError, match="expired at 2026-06-01"):
        box.push(bundle, now=moment)
    assert not box.root().exists()
    done = box.push(bundle, now=moment - timedelta(seconds=1))
    assert done.state == "committed"
    box.push(box.kit.bundle("1.1.0", 2), now=moment + timedelta(days=1))
    late = box.kit.bundle("1.2.0", 3, expires="2026-06-01T00:00:00Z")
    with pytest.raises(ExpiredError, match=r"at 2026-06-02T00:00:00Z, and this one had expired then"):  # a clock set back
        box.push(late, now=moment - timedelta(days=1))
    assert box.status().current == "1.1.0"


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        (Compatibility(("riscv64",)), "not riscv64"),
        (Compatibility(min_memory_bytes=1 << 50), "of memory"),
        (Compatibility(runtimes=(Runtime("tflite", "ai-edge-litert", "<1"),)), "not ai-edge-litert <1"),
    ],
)
def test_a_release_for_other_devices_is_refused(box: Box, wanted: Compatibility, told: str) -> None:
    with pytest.raises(IncompatibleError, match=told):
        box.push(box.kit.bundle("1.0.0", 1, {"other": {"compatibility": wanted}}))
    assert not box.root().exists()


def test_the_device_checks_signatures_by_the_keys_that_it_got_first(box: Box, tmp_path: Path) -> None:
    first, stranger = box.kit.bundle("1.0.0", 1), Kit(tmp_path / "stranger")
    stranger.folder.mkdir()
    assert box.push(first).signed == 1
    foreign = stranger.bundle("1.1.0", 2)
    with pytest.raises(SignatureError, match="accepts 0 of the 1 signers"):
        box.push(foreign, signers=stranger.allowed)
    box.keeps(first)
    with pytest.raises(SignatureError, match="1 of the 2 signers"):
        box.push(box.kit.bundle("1.1.0", 2), threshold=2)
    both = tmp_path / "both"
    both.write_text(box.kit.allowed.read_text() + Path(f"{make_key(tmp_path / 'other')}.allowed").read_text())
    trusted = (box.root() / "allowed_signers").read_text()
    with pytest.raises(HealthError):  # what fails changes nobody's keys
        box.push(box.kit.bundle("1.1.0", 2), signers=both, replace_signers=True, after="false")
    assert (box.root() / "allowed_signers").read_text() == trusted
    assert box.push(box.kit.bundle("1.1.0", 2), signers=both, replace_signers=True).signed == 1
    assert (box.root() / "allowed_signers").read_text() == both.read_text()
    assert box.push(stranger.bundle("1.2.0", 3), signers=stranger.allowed, replace_signers=True).signed == 1


def test_the_device_reads_its_signers_as_this_machine_does(box: Box, tmp_path: Path) -> None:
    spaced = tmp_path / "spaced"
    spaced.write_text('"' + box.kit.allowed.read_text().replace("@example.org ", ' of our team@example.org" ', 1))
    with pytest.raises(SignatureError, match="accepts 0 of the 1"):
        box.push(Kit(tmp_path, runs=False).bundle("1.0.0", 1, signed=False), signers=spaced)
    assert not (box.root() / "allowed_signers").exists()  # a first release that was refused leaves no keys
    assert box.push(box.kit.bundle("1.0.0", 1), signers=spaced).signed == 1


def test_one_clock_that_was_ahead_does_not_lock_a_device_out(box: Box) -> None:
    ahead = datetime(2099, 1, 1, tzinfo=UTC)
    box.push(box.kit.bundle("1.0.0", 1), now=ahead)
    box.push(box.kit.bundle("1.1.0", 2), now=ahead)
    rollback(box.target, base=box.base)
    expires = f"{datetime.now(UTC) + timedelta(days=2):%Y-%m-%dT%H:%M:%SZ}"
    assert box.push(box.kit.bundle("1.2.0", 3, expires=expires)).state == "committed"


def test_going_back_to_what_is_in_use_changes_nothing(box: Box) -> None:
    box.push(box.kit.bundle("1.0.0", 1))
    box.push(box.kit.bundle("1.1.0", 2))
    done = rollback(box.target, version="1.1.0", base=box.base, after="false")
    assert (done.left, done.version) == ("1.1.0", "1.1.0")
    assert (box.status().current, box.status().pending, box.status().previous) == ("1.1.0", None, "1.0.0")
    done = rollback(box.target, base=box.base, only_from="1.2.0")  # a device that a rollout spared
    assert (done.left, done.version, box.status().current) == ("1.1.0", "1.1.0", "1.1.0")
    assert rollback(box.target, base=box.base, only_from="1.1.0").version == "1.0.0"


def test_there_is_no_way_back_where_nothing_was_before(box: Box) -> None:
    with pytest.raises(ReleaseError, match="has no releases"):
        rollback(box.target, base=box.base)
    assert status(box.target, box.base) == []
    box.push(box.kit.bundle("1.0.0", 1))
    with pytest.raises(ReleaseError, match=r"no earlier release to go back to; on the device: 1\.0\.0"):
        rollback(box.target, base=box.base)
    with pytest.raises(ReleaseError, match=r"no release 0\.9\.0"):
        rollback(box.target, version="0.9.0", base=box.base)
    box.push(box.kit.bundle("1.0.0", 1, product="other"))
    with pytest.raises(ReleaseError, match="releases of 2 products"):
        rollback(box.target, base=box.base)


def test_old_releases_are_removed_but_not_the_one_in_use_nor_the_one_before(box: Box) -> None:
    for number in range(1, 6):
        box.push(box.kit.bundle(f"1.{number}.0", number))
    rollback(box.target, version="1.2.0", base=box.base)
    (done,) = prune_releases(box.target, 2, base=box.base)
    assert (done.removed, done.kept) == (("1.3.0",), ("1.1.0", "1.2.0", "1.4.0", "1.5.0"))
    kept = {path.name for version in done.kept for path in (box.root() / "releases" / version).iterdir()}
    assert "model.tflite" in kept
    needed = {path.stat().st_ino for path in (box.root() / "releases").rglob("*") if path.is_file()}
    assert {path.stat().st_ino for path in (box.root() / "objects").iterdir()} <= needed
    assert box.status().current == "1.2.0"
    assert not [release for release in box.status().releases if release.damaged]


# goes back by itself


def test_a_release_that_gives_another_answer_goes_back_by_itself(box: Box) -> None:
    box.kit.runs = True
    good = box.kit.bundle("1.0.0", 1)
    assert box.push(good).health.deviation is not None
    for number, (content, told) in enumerate(
        [
            ({"health/output0.npy": npy(np.zeros((1, 8), np.float32))}, "another output"),
            ({"health/output0.npy": npy(np.zeros((1, 9), np.float32))}, "off by inf"),
            ({"health/output0.npy": npy(np.full((1, 8), np.nan, np.float32))}, "another output"),
            ({"model.tflite": crashing_tflite()}, "cannot be run"),
            ({"model.tflite": b"no model"}, "cannot be run"),
        ],
        2,
    ):
        with pytest.raises(HealthError, match=told):
            box.push(box.kit.bundle(f"1.{number}.0", number, contents=content))
        box.keeps(good)
    objects = {path.stat().st_ino for path in (box.root() / "objects").iterdir()}
    assert objects == {path.stat().st_ino for path in (box.root() / "objects").iterdir() if path.stat().st_nlink > 1}  # none is left over


def test_a_release_that_is_too_slow_goes_back_by_itself(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = health_check._measure  # as on a device where nothing else runs: what other tests take here would leave the gate undecided
    monkeypatch.setattr(health_check, "_measure", lambda *asked: replace(measure(*asked), others=0.0))
    box.kit.runs = True
    good = box.kit.bundle("1.0.0", 1, {"any": {"gates": (Gate("latency", 1000.0), Gate("accuracy", 0.9))}})
    done = box.push(good)
    assert done.health.latency_ms is not None
    assert done.health.latency_ms < 1000
    with pytest.raises(HealthError, match="does not meet its gates: latency"):
        box.push(box.kit.bundle("1.1.0", 2, {"any": {"gates": (Gate("latency", 1e-6),)}}))
    box.keeps(good)


def test_a_release_whose_program_does_not_start_goes_back_and_the_program_starts_again(box: Box) -> None:
    good = box.kit.bundle("1.0.0", 1)
    note = f"cat labels.txt >> {box.base}/started; ! grep -q 'labels 2' labels.txt"
    box.push(good, after=note)
    with pytest.raises(HealthError, match=r"went back to 1\.0\.0: .* exit code 1"):
        box.push(box.kit.bundle("1.1.0", 2), after=note)
    box.keeps(good)
    assert Path(box.base, "started").read_text() == "labels 1\nlabels 2\nlabels 1\n"
    box.push(box.kit.bundle("1.2.0", 3))
    with pytest.raises(HealthError, match=r"stayed with 1\.2\.0"):
        rollback(box.target, base=box.base, after="false")
    assert (box.status().current, box.status().previous) == ("1.2.0", "1.0.0")


# on the way


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
