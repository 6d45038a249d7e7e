"""A push that is stopped at any of its steps leaves the old release or the new one in use, whole; a second push completes."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from release_faults import FAULTS, Fault, Pusher, Step, Victim, harm, own_lock, which
from release_kit import Kit

from edgeprune.release import Bundle
from edgeprune.release.deploy.installed import status
from edgeprune.release.deploy.push import PushOptions, push
from edgeprune.testing.sshd import SshServer, find_sshd

pytestmark = pytest.mark.device


class Scene:
    """A device with release 1.0.0, and release 1.1.0 on its way to it."""

    def __init__(self, victim: Victim, folder: Path) -> None:
        self.victim, self.folder = victim, folder
        kit = Kit(folder)
        self.bundles = {"old": kit.bundle("1.0.0", 1), "new": kit.bundle("1.1.0", 2)}
        self.options = PushOptions(signers=kit.allowed, retries=0)
        self.push("old")
        self.template = folder / "template"
        subprocess.run(["cp", "-a", str(victim.root()), str(self.template)], check=True)

    def push(self, name: str) -> str:
        with Bundle.open(self.bundles[name]) as bundle:
            return push(bundle, self.victim.target, self.options).state

    def reset(self) -> None:
        subprocess.run(["rm", "-rf", str(self.victim.root())], check=True)
        subprocess.run(["cp", "-a", str(self.template), str(self.victim.root())], check=True)

    def in_use(self) -> str:
        return which(self.victim.root(), self.bundles)

    def steps(self) -> list[Step]:
        """Those of a push that nobody disturbs."""
        self.reset()
        self.victim.arm(0)
        pusher = Pusher(self.bundles["new"], self.victim, self.folder / "pusher")
        assert pusher.wait() == 0, pusher.error()
        device = [Step("device", number, name) for number, name in enumerate(self.victim.trace(), 1)]
        host = [Step("host", number, name) for number, name in enumerate(pusher.trace(), 1)]
        self.victim.disarm()
        return device + host

    def suffer(self, step: Step, fault: Fault) -> tuple[str, str]:
        """What is in use after the fault, and after the push that follows it."""
        self.reset()
        harm(self.victim, self.bundles["new"], step, fault, self.folder / "pusher")
        before = self.in_use()
        self.push("new")
        (found,) = status(self.victim.target, deep=True)
        assert (found.current, found.committed, found.pending) == ("1.1.0", "1.1.0", None)
        assert not [release for release in found.releases if release.damaged]
        return before, self.in_use()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home of this process's own."""
    home = tmp_path_factory.mktemp("client")
    (home / ".ssh").mkdir(mode=0o700)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "SSH_AUTH_SOCK"):
            patch.delenv(name, raising=False)
        yield home


@pytest.fixture(scope="module")
def scene(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    if find_sshd() is None or os.getuid() != 0:
        pytest.skip("stopping a device needs root and sshd: all processes of a user that is made for it are killed")
    with SshServer(enter=own_lock(tmp_path_factory.mktemp("lock"))) as server:
        server.make_python()
        (home / ".ssh/known_hosts").write_text(server.host_key)
        (home / ".ssh/config").write_text(f"Host *\n  IdentityFile {server.key}\n")
        yield Scene(Victim(server), tmp_path_factory.mktemp("scene"))


def alike(steps: list[Step]) -> set[int]:
    """The numbers of steps that only do for another file what is done for the first and for the last."""
    numbers: set[int] = set()
    for first in ("cat", "link"):  # of an upload, of a file in a release: each is three steps
        begins = [step.number for step in steps if step.side == "device" and step.name.startswith(first)]
        numbers |= set(range(begins[0] + 3, begins[-1]))
    return numbers


def test_each_fault_where_the_device_or_this_side_is_in_the_middle(scene: Scene) -> None:
    """Before the switch and after it; `make soak` does it at every step."""
    steps = scene.steps()
    places = {
        "process": [next(step for step in steps if step.side == "host" and step.name.startswith("switching"))],
        "link": [next(step for step in steps if step.name.startswith("mv"))],
        "power": [
            next(step for step in steps if step.name.startswith("symlink")),
            [step for step in steps if step.name.startswith("replace") and "state" in step.name][-1],
        ],
    }
    found = {}
    for fault in FAULTS:
        for step in places[fault]:
            before, after = scene.suffer(step, fault)
            assert after == "new", (str(step), fault)
            found[fault, step.name] = before
    assert set(found.values()) == {"old", "new"}, found


@pytest.mark.soak
def test_at_every_step_one_fault(scene: Scene) -> None:
    """The three faults in turns."""
    steps = scene.steps()
    skipped = alike(steps)
    _every(scene, [step for step in steps if step.side == "host" or step.number not in skipped], lambda number: (FAULTS[number % 3],))


@pytest.mark.soak
def test_at_every_step_every_fault(scene: Scene) -> None:
    _every(scene, scene.steps(), lambda number: FAULTS)


def _every(scene: Scene, steps: list[Step], faults: Callable[[int], tuple[Fault, ...]]) -> None:
    assert {"link", "rename", "replace", "symlink", "fsync", "cat", "mv", "upload", "health", "switching", "committing"} <= {
        step.name.split()[0] for step in steps
    }
    found: Counter[tuple[str, str]] = Counter()
    for number, step in enumerate(steps):
        for fault in faults(number):
            before, after = scene.suffer(step, fault)
            assert after == "new", (str(step), fault)
            found[fault, before] += 1
            print(f"{step}\t{fault}\t{before}\t{after}")
    assert sum(found.values()) >= len(steps)
    assert {before for _, before in found} == {"old", "new"}  # both sides of the switch were met
