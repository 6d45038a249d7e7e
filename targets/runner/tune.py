"""Holds the clocks still for a measurement, and puts back what was there, also after a crash.

Before anything is changed, what was there is written to a state file.  Three things restore it: the end of the measurement; a guard,
a process of its own session that waits for the owner's end; and, should the guard die too, the next run that finds the file.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from typing import Any, Dict, Iterator, List, Optional

from .probes.files import paths, text
from .protocol import RunnerError

_GOVERNOR = "sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor"
STATE_FILE = "tuned.json"
_TOOL_S = 30.0


def _write(path: str, value: str) -> None:
    """Write one value into a file of /sys, as root by ``sudo`` without a password where this user may not.  Raises :class:`RunnerError`."""
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(value)
    except PermissionError as error:
        command = ["sudo", "-n", "tee", path]
        try:
            subprocess.run(command, input=value.encode(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=_TOOL_S, check=True)
        except (OSError, subprocess.SubprocessError):
            raise RunnerError("tune", f"{path} cannot be written: tuning needs root, or sudo without a password") from error
    except OSError as error:  # the kernel takes no such value now: a processor that is off, a driver that refuses
        raise RunnerError("tune", f"{path} cannot be set to {value}: {error.strerror}") from error


def _jetson_clocks(*arguments: str) -> None:
    root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    try:
        subprocess.run(
            [*root, "jetson_clocks", *arguments],
            stdin=subprocess.DEVNULL,  # it may ask, and the protocol's input is not an answer
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=_TOOL_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        words = getattr(error, "stderr", None) or str(error).encode()
        raise RunnerError("tune", f"jetson_clocks {' '.join(arguments)} failed: {words.decode('utf-8', 'replace').strip()}") from error


def _save(path: str, state: Dict[str, Any]) -> None:
    """Under its name only when it is on the disk as a whole."""
    descriptor, part = tempfile.mkstemp(dir=os.path.dirname(path), suffix=".part")
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        json.dump(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def _found(path: str, root: str) -> Dict[str, Any]:
    """What there is to change, and its present state."""
    governors = {name: text(root, name) for name in paths(root, _GOVERNOR)}
    state: Dict[str, Any] = {"root": root, "governors": {name: value for name, value in governors.items() if value}, "jetson_clocks": None}
    if shutil.which("jetson_clocks"):
        state["jetson_clocks"] = path + ".clocks"
        with contextlib.suppress(FileNotFoundError):
            os.remove(state["jetson_clocks"])  # it asks before it overwrites
        _jetson_clocks("--store", state["jetson_clocks"])
    if not state["governors"] and not state["jetson_clocks"]:
        raise RunnerError("tune", "there is nothing to tune: this device has neither cpufreq governors nor jetson_clocks")
    return state


def _apply(state: Dict[str, Any]) -> List[str]:
    """Set the clocks; what was done, in words."""
    root, done = state["root"], []
    for name in state["governors"]:
        available = (text(root, os.path.dirname(name) + "/scaling_available_governors") or "performance").split()
        if "performance" not in available:
            raise RunnerError("tune", f"{name}: there is no governor performance, only {', '.join(available)}")
        _write(os.path.join(root, name), "performance")
    if state["governors"]:
        done.append("governor performance")
    if state["jetson_clocks"]:
        _jetson_clocks()
        done.append("jetson_clocks")
    return done


def _put_back(state: Dict[str, Any]) -> None:
    """Everything that can be; then the first :class:`RunnerError` is raised, if there was any."""
    errors: List[RunnerError] = []
    for name, value in state["governors"].items():
        try:
            if os.path.exists(os.path.join(state["root"], name)):
                _write(os.path.join(state["root"], name), value)
        except RunnerError as error:
            errors.append(error)
    if state["jetson_clocks"]:
        try:
            _jetson_clocks("--restore", state["jetson_clocks"])
        except RunnerError as error:
            errors.append(error)
    if errors:
        raise errors[0]


def restore(path: str) -> bool:
    """Put back what the state file says and remove it; False when there is none, or its owner still lives.

    A file that cannot be read is removed: it was never complete, so nothing had been changed.  What cannot be put back raises
    :class:`RunnerError` when all the rest is, and the file stays for the next attempt.
    """
    try:
        with open(path, encoding="ascii") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            state = json.load(file)
            if not os.path.exists(path):
                return False
            _put_back(state)
            if state["jetson_clocks"]:
                with contextlib.suppress(OSError):
                    os.remove(state["jetson_clocks"])
            os.remove(path)
            return True
    except (FileNotFoundError, BlockingIOError):
        return False
    except OSError as error:
        raise RunnerError("tune", f"{path}, which holds the clocks to put back, cannot be used: {error.strerror}") from error
    except (ValueError, KeyError, TypeError):
        os.remove(path)
        return False


def guard(path: str) -> int:
    """The guard's program: wait for the end of standard input, which is the owner's, then restore."""
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    restore(path)
    return 0


def _start_guard(path: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, sys.argv[0], "--guard", path],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


@contextlib.contextmanager
def tuned(wanted: bool, folder: Optional[str] = None, root: str = "/") -> Iterator[List[str]]:
    """Clocks held still inside; yields what was done.  Raises :class:`RunnerError` of kind ``tune`` when that cannot be had.

    What a dead owner left behind is restored first, wanted or not.  ``folder``: where the state file is kept, the runner's own unless
    given.
    """
    path = os.path.join(folder or os.path.dirname(os.path.abspath(sys.argv[0])), STATE_FILE)
    if not wanted:
        with contextlib.suppress(RunnerError):
            restore(path)
        yield []
        return
    restore(path)
    _save(path, _found(path, root))
    with open(path, encoding="ascii") as owned:
        fcntl.flock(owned, fcntl.LOCK_SH)
        process = _start_guard(path)
        try:
            yield _apply(json.load(owned))
        finally:
            owned.close()
            try:
                restore(path)
            finally:
                assert process.stdin is not None
                process.stdin.close()
                process.wait()
