"""Holds a session: its folder and, on request, the device's lock.  All of it is freed by the kernel when this process ends."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import json
import os
import shutil
import tempfile
import time
import uuid
from typing import Any, Dict, Optional

from .measure import Emit
from .protocol import MAX_SILENCE_S, RunnerError
from .tune import tuned
from .watchdog import hear, wait_for_silence

_POLL_S = 0.2
_STALE_PART_S = 3600.0


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False


class Folder:
    """A folder ``session-<id>`` below ``base`` that lives as long as its ``.owner`` file is locked by a process."""

    def __init__(self, base: str) -> None:
        os.makedirs(base, mode=0o700, exist_ok=True)
        with open(os.path.join(base, ".sessions"), "a") as guard:
            fcntl.flock(guard, fcntl.LOCK_EX)
            self.removed = self._remove_stale(base)
            self.path = os.path.join(base, f"session-{uuid.uuid4().hex[:12]}")
            os.mkdir(self.path, 0o700)
            self._owner = os.open(os.path.join(self.path, ".owner"), os.O_RDWR | os.O_CREAT, 0o600)
            _try_lock(self._owner)

    @staticmethod
    def _remove_stale(base: str) -> int:
        removed = 0
        for path in glob.glob(os.path.join(base, "*.part")):  # an upload of the runner that a dropped link cut
            with contextlib.suppress(OSError):
                if time.time() - os.stat(path).st_mtime > _STALE_PART_S:
                    os.remove(path)
        for path in glob.glob(os.path.join(base, "session-*")):
            try:
                owner = os.open(os.path.join(path, ".owner"), os.O_RDWR)
            except OSError:
                stale = True
            else:
                stale = _try_lock(owner)
                os.close(owner)
            if stale:
                shutil.rmtree(path, ignore_errors=True)
                removed += 1
        return removed

    def remove(self) -> None:
        """Remove it with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)


class DeviceLock:
    """One user at a time on a device, whoever they are: a file that all users may lock, in the folder that all users share."""

    def __init__(self, path: Optional[str] = None) -> None:
        shared = "/tmp" if os.access("/tmp", os.W_OK) else tempfile.gettempdir()
        self.path = path or os.path.join(shared, "edgeprune.lock")
        self._file = self._open()

    def _open(self) -> int:
        flags = os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            return os.open(self.path, os.O_RDWR | flags)
        except FileNotFoundError:
            made = os.open(self.path, os.O_RDWR | os.O_CREAT | flags, 0o666)
            os.fchmod(made, 0o666)
            return made
        except PermissionError:
            return os.open(self.path, os.O_RDONLY | flags)

    def _try(self) -> bool:
        """Lock the file that has the name now: a teardown removes it while it holds it, and who waited would lock what nobody else sees."""
        while _try_lock(self._file):
            try:
                if os.path.samestat(os.stat(self.path), os.fstat(self._file)):
                    return True
            except FileNotFoundError:
                pass
            os.close(self._file)
            self._file = self._open()
        return False

    def holder(self) -> str:
        """Who wrote their name in the file last."""
        try:
            return str(json.loads(os.pread(self._file, 4096, 0))["owner"])
        except (ValueError, KeyError, TypeError, OSError):
            return "someone"

    def acquire(self, owner: str, timeout_s: float, emit: Emit) -> None:
        """Wait for the lock; ``RunnerError``: ``busy`` when it is not free within ``timeout_s``, ``gone`` when the host falls silent."""
        heard = time.monotonic()
        end = heard + timeout_s
        announced = False
        while not self._try():
            if time.monotonic() >= end:
                raise RunnerError("busy", f"the device is in use by {self.holder()}", holder=self.holder())
            if not announced:
                emit("waiting", holder=self.holder())
                announced = True
            said = hear(_POLL_S)
            heard = time.monotonic() if said else heard
            if said == b"" or time.monotonic() - heard > MAX_SILENCE_S:
                raise RunnerError("gone", "the host is gone")
        try:
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, json.dumps({"owner": owner, "pid": os.getpid(), "since": time.time()}).encode(), 0)
        except OSError:
            pass  # locked all the same; only the name is missing


def hold(request: Dict[str, Any], emit: Emit) -> Dict[str, Any]:
    """Make the session's folder, take the lock, and keep both until the host is gone."""
    folder = Folder(request["base"])
    try:
        emit("folder", path=folder.path, removed=folder.removed)
        if request.get("lock", True):
            lock = DeviceLock()
            lock.acquire(request["owner"], request["timeout_s"], emit)
            with tuned(False, request["base"]):  # clocks that a run which died held still are free again
                pass
        emit("held", path=folder.path)
        return {"ended": wait_for_silence()}
    finally:
        folder.remove()
