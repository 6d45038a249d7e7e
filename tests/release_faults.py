"""Stops a push at every step that it takes, on either side, and does harm there.

On the device, every change of a file by the activator and every program of an upload is a step: before it, the hook below writes its name
into a list, and at the chosen one stops its process and says so.  On this side, every event is a step.  What is done then: the pushing
process is killed, its connection is cut (the device goes on in both), or all of the device's processes are killed.
"""

from __future__ import annotations

import multiprocessing
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from board.machine import Board
from release_kit import Kit

from edgeprune.devices import Target
from edgeprune.release import Bundle
from edgeprune.release.deploy.installed import Status, status
from edgeprune.release.deploy.push import Pushed, PushOptions, push
from edgeprune.testing.sshd import SshServer, children

Fault = Literal["process", "link", "power"]
FAULTS: tuple[Fault, ...] = ("process", "link", "power")
PROGRAMS = ("cat", "sync", "mv")

# Runs in the device's Python, when that runs the activator.
HOOK = """
import os, signal, sys

folder = os.path.expanduser("~/faults")

def step(name):
    with open(folder + "/trace", "a+") as file:
        file.write(name + "\\n")
        file.seek(0)
        number = len(file.readlines())
    with open(folder + "/at") as file:
        if number == int(file.read()):
            open(folder + "/reached", "w").write(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGSTOP)

def watched(name):
    real = getattr(os, name)
    def call(*arguments, **options):
        step(name + " " + " ".join(str(item).rpartition("/")[2] for item in arguments if isinstance(item, str)))
        return real(*arguments, **options)
    setattr(os, name, call)

if any("activator.pyz" in argument for argument in sys.orig_argv) and os.path.exists(folder + "/at"):
    for name in ("fsync", "replace", "rename", "link", "symlink", "unlink", "mkdir"):
        watched(name)
"""
SHIM = """#!/bin/sh
folder=$HOME/faults
if [ -e "$folder/at" ]; then
  echo "{name}" >> "$folder/trace"
  if [ $(($(wc -l < "$folder/trace"))) = "$(/bin/cat "$folder/at")" ]; then echo $$ > "$folder/reached"; kill -STOP $$; fi
fi
exec /bin/{name} "$@"
"""


def own_lock(folder: Path) -> list[str]:
    """A command that starts a server which has a device's lock of its own: others on this machine may hold theirs for long."""
    lock = folder / "lock"
    lock.touch()
    lock.chmod(0o666)
    script = '[ -e /tmp/edgeprune.lock ] || install -m 666 /dev/null /tmp/edgeprune.lock; mount --bind "$0" /tmp/edgeprune.lock; exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, str(lock)]


class Victim:
    """A device that is stopped and harmed."""

    def __init__(self, machine: SshServer | Board) -> None:
        self.machine, self.faults = machine, machine.home / "faults"
        site = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
        hook = machine.home / ("venv" if isinstance(machine, SshServer) else ".local") / site
        programs = machine.home / "programs"
        for folder in (self.faults, hook, programs):
            folder.mkdir(parents=True, exist_ok=True)
        (hook / "faults.pth").write_text("import edgeprune_faults\n")
        (hook / "edgeprune_faults.py").write_text(HOOK)
        for name in PROGRAMS:
            (programs / name).write_text(SHIM.format(name=name))
            (programs / name).chmod(0o755)
        if isinstance(machine, Board):
            (machine.home / ".bashrc").write_text("PATH=$HOME/programs:$PATH\n")  # which Debian's bash reads for sshd's commands
        self.own(machine.home)
        if isinstance(machine, SshServer):
            machine.set_environment(PATH=f"{programs}:{_PATH}")

    def own(self, path: Path) -> None:
        owner = pwd.getpwnam(self.machine.user) if isinstance(self.machine, SshServer) else None
        uid = owner.pw_uid if owner else 1000
        for each in (path, *path.rglob("*")):
            os.chown(each, uid, uid if not owner else owner.pw_gid, follow_symlinks=False)

    @property
    def target(self) -> Target:
        return Target("box", self.machine.address)

    def root(self, product: str = "gadget") -> Path:
        return self.machine.home / "edgeprune" / product

    def arm(self, at: int) -> None:
        """Stop at the step of this number (of the device); 0: at none, and list them."""
        self.disarm()
        (self.faults / "at").write_text(str(at))
        self.own(self.faults)

    def disarm(self) -> None:
        for name in ("at", "trace", "reached"):
            (self.faults / name).unlink(missing_ok=True)

    def trace(self) -> list[str]:
        path = self.faults / "trace"
        return path.read_text().splitlines() if path.exists() else []

    def stopped(self) -> list[int]:
        """Its processes that are stopped."""
        found = []
        for pid in self._processes():
            try:
                if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T":
                    found.append(pid)
            except OSError:
                continue
        return found

    def go_on(self) -> None:
        """Let what was stopped continue."""
        for pid in self.stopped():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def cut(self) -> None:
        """End its connections; what runs goes on."""
        if isinstance(self.machine, SshServer):
            self.machine.drop_connections()
        else:
            serving = [pid for pid in self._processes() if b"/usr/sbin/sshd" in Path(f"/proc/{pid}/cmdline").read_bytes()]
            for pid in [child for parent in serving for child in children(parent) if child in serving]:  # not the one that listens
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def power_off(self) -> None:
        """End all of its processes at once."""
        if isinstance(self.machine, Board):
            self.machine.stop()
            return
        pids = self._processes()
        for signal_number in (signal.SIGSTOP, signal.SIGKILL):  # none starts another meanwhile
            for pid in pids:
                try:
                    os.kill(pid, signal_number)
                except ProcessLookupError:
                    continue
        self.machine.stop()

    def power_on(self) -> None:
        if self.machine._process is None:
            self.machine.start()

    def _processes(self) -> list[int]:
        if isinstance(self.machine, SshServer):
            uid = pwd.getpwnam(self.machine.user).pw_uid
            return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and _owner(entry) == uid]
        found, left = [], [self.machine._process.pid] if self.machine._process else []
        while left:
            more = children(left.pop())
            found += more
            left += more
        return found


_PATH = "/usr/local/bin:/usr/bin:/bin"


def _owner(entry: Path) -> int:
    try:
        return entry.stat().st_uid
    except OSError:
        return -1


_PUSHERS = multiprocessing.get_context("forkserver")  # a process that has threads, as a test's connections do, must not be forked
_PUSHERS.set_forkserver_preload(["release_faults"])


def _push(bundle: Path, address: str, folder: Path, at: int, options: PushOptions, home: str) -> None:
    os.environ["HOME"] = home
    count = 0

    def tell(event: dict[str, Any]) -> None:
        nonlocal count
        if event["event"] == "waiting":
            return
        count += 1
        with (folder / "trace").open("a") as file:
            file.write(f"{event['event']} {event.get('name', '')} {event.get('sent', '')}".strip() + "\n")
        if count == at:
            (folder / "reached").touch()
            while not (folder / "go").exists():
                time.sleep(0.01)

    try:
        with Bundle.open(bundle) as opened:
            push(opened, Target("box", address), options, tell)
    except BaseException as error:
        (folder / "error").write_text(f"{type(error).__name__}: {error}")
        os._exit(1)
    os._exit(0)


class Pusher:
    """A push in a process of its own, that stops at the event of number ``at`` (0: none) and says so."""

    def __init__(self, bundle: Path, victim: Victim, folder: Path, at: int = 0, options: PushOptions | None = None) -> None:
        self.folder = folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        options = options or PushOptions(retries=0, lock_timeout_s=60)
        self._process = _PUSHERS.Process(
            target=_push, args=(bundle, victim.machine.address, folder, at, options, os.environ["HOME"]), daemon=True
        )
        self._process.start()

    def trace(self) -> list[str]:
        path = self.folder / "trace"
        return path.read_text().splitlines() if path.exists() else []

    def error(self) -> str:
        path = self.folder / "error"
        return path.read_text() if path.exists() else ""

    def ended(self) -> bool:
        return not self._process.is_alive()

    def wait(self, timeout_s: float = 300.0) -> int:
        self._process.join(timeout_s)
        if self._process.exitcode is None:
            raise TimeoutError("the push does not end")
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()
        self._process.join()

    def go_on(self) -> None:
        (self.folder / "go").touch()


@dataclass(frozen=True)
class Step:
    """A step: on the ``device`` or on this side (``host``), by number from 1."""

    side: Literal["device", "host"]
    number: int
    name: str = ""

    def __str__(self) -> str:
        return f"{self.side} {self.number} {self.name}"


def harm(victim: Victim, bundle: Path, step: Step, fault: Fault, folder: Path) -> None:
    """Begin a push, stop it at a step, do harm, and let what is left go on.  Raises when it never gets there."""
    victim.arm(step.number if step.side == "device" else 0)
    pusher = Pusher(bundle, victim, folder, step.number if step.side == "host" else 0)
    reached = victim.faults / "reached" if step.side == "device" else folder / "reached"
    try:
        end = time.monotonic() + 300
        while not reached.exists() or (step.side == "device" and not victim.stopped()):
            if pusher.ended() or time.monotonic() > end:
                raise AssertionError(f"the push did not come to {step}: {pusher.error()} {victim.trace()[-3:]}")
            time.sleep(0.005)
        if fault == "process":
            pusher.kill()
        elif fault == "link":
            victim.cut()
        else:
            victim.power_off()
        pusher.go_on()
        if fault != "power":
            victim.go_on()
        pusher.wait()
    finally:
        pusher.kill()
        victim.go_on()
        victim.disarm()
        victim.power_on()


def contents(root: Path) -> dict[str, bytes]:
    """What a program that opens ``current`` sees: every file."""
    current = root / "current"
    if not current.is_symlink():
        return {}
    folder = root / os.readlink(current)
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not stat.S_ISLNK(path.lstat().st_mode)
    }


def expected(bundle: Path, variant: str = "any") -> dict[str, bytes]:
    """The files of a bundle's release."""
    with Bundle.open(bundle) as opened:
        files = {file.path: opened.read(file) for file in opened.manifest.files_of(variant)}
        signatures = {f"manifest.json.{key}.sig": text for key, text in opened.signatures.items()}
        return files | signatures | {"manifest.json": opened.manifest_bytes}


def which(root: Path, bundles: dict[str, Path]) -> str:
    """The name of the bundle that ``current`` leads to, whole: every file as it was made.  Raises when it is none of them."""
    found = contents(root)
    own = {name: data for name, data in found.items() if name not in ("release.json", "SHA256SUMS")}
    for name, path in bundles.items():
        if own == expected(path):
            done = subprocess.run(
                ["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=root / os.readlink(root / "current"), capture_output=True
            )
            assert done.returncode == 0, done.stderr
            return name
    raise AssertionError(f"{root}/current is not a whole release: {sorted(found)}")


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
