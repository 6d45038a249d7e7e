"""The runner on a device: find a Python, push the runner, hold the device, send requests."""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import platform
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from edgeprune.decode import JsonObject, convert
from edgeprune.devices.address import parse_address
from edgeprune.devices.connect import connect
from edgeprune.devices.events import DeviceEvent, OnEvent
from edgeprune.devices.framing import new_mark
from edgeprune.devices.pack import build_runner
from edgeprune.devices.pythons import PHONE_REMEDY, Found, Python, discover
from edgeprune.devices.session import Progress, Session
from edgeprune.devices.wheels import advice
from edgeprune.engines import CPU
from edgeprune.errors import (
    AcceleratorError,
    ConnectionLostError,
    DeviceBusyError,
    DeviceError,
    DeviceTimeoutError,
    ModelCrashedError,
    NoRuntimeError,
    RunnerError,
    printable,
    printable_json,
)
from edgeprune.files import parse_json

PROTOCOL = 1
_BEFORE_MARK = '{"mark":"'  # what stands before the mark in a line, of which the rest is read
_HEARTBEAT_S = 5.0
_MISSING = "No module named"
# Removes other versions of the runner that no process runs.  $1: the folder, $2: the version to keep.
_PRUNE = """
running=$(cat /proc/[0-9]*/cmdline 2> /dev/null | tr '\\0' '\\n')
for old in "$1"/runner-*.pyz; do
  case "$running" in *"$old"*) ;; *) [ "$old" = "$2" ] || rm -f "$old" ;; esac
done
"""


@dataclass(frozen=True)
class Broken:
    """Why a runtime cannot be imported."""

    message: str
    kind: str = ""


@dataclass(frozen=True)
class RuntimeAnswer:
    """A runtime that is installed: its package and version, or what is wrong with it.  ``adapter``: which device an accelerator is."""

    runtime: str = ""
    version: str = ""
    adapter: str = ""
    error: Broken | None = None


_NO_ACCELERATOR = "edgeprune probe lists what the device has; name one of them, or install its driver and runtime there."
_REMEDIES = {
    "tune": "Measure without tuning (leave --tune out), or allow it: as root, or by sudo without a password.",
    "meter": "edgeprune probe lists the meters there are; --meter names one, and --no-energy measures without.",
    "refused": "Correct the inputs that were asked for (--input), or export the model again.",
    "request": "Correct that option, or leave it out.",
}


def to_error(error: Any, subject: str) -> DeviceError:
    """The exception for an error of the protocol; ``subject`` is what it is about."""
    if not isinstance(error, dict):
        error = {"message": f"it failed, and said {error!r}"}
    message = f"{subject.rstrip(':')}: {error.get('message', 'it failed without giving a reason')}"
    log = str(error.get("log", "")).strip().splitlines()
    remedy = "Its last output: " + log[-1] if log else _REMEDIES.get(str(error.get("kind")))
    match error.get("kind"):
        case "busy":
            return DeviceBusyError(message, remedy="Wait for them to finish, or allow a longer wait for the lock.")
        case "crash" | "memory" | "timeout":
            return ModelCrashedError(message, remedy=remedy)
        case "accelerator":
            return AcceleratorError(message, remedy=_NO_ACCELERATOR)
        case "runtime":
            return NoRuntimeError(message)
        case _:
            return RunnerError(message, remedy=remedy)


class Runner:
    """The runner of one session.  Made by :func:`open_runner`; closing it frees the lock and removes the session's folder.

    ``home``: the home folder on the device, as :func:`open_runner` found it.
    """

    def __init__(self, session: Session, python: Python, program: str, probe: JsonObject) -> None:
        self.session, self.python, self.program, self.probe = session, python, program, probe
        self.folder = self.home = ""
        self._holder: Any = None

    @property
    def holding(self) -> bool:
        """Whether the session's folder and lock are still held; not so when the process on the device that holds them died."""
        return self._holder is None or not self._holder.ended.is_set()

    def request(self, action: str, timeout_s: float, on_event: OnEvent | None = None, **fields: Any) -> JsonObject:
        """Send one request; its result.  Raises what :func:`to_error` makes, and :class:`ConnectionLostError`."""
        if not self.holding:
            raise ConnectionLostError(f"the lock on {self.session.address} was lost")
        answers = _Answers(self.session.address, on_event)
        line = answers.request(action, **fields)
        done = self.session.run([self.python.path, self.program], line, timeout_s, answers.take, _HEARTBEAT_S, answers.mark)
        return answers.result(done.code, done.stderr)

    def hold(self, base: str, lock: bool, timeout_s: float, on_event: OnEvent | None) -> None:
        """Make the session's folder and take the device's lock; both last until :meth:`close`."""
        held = threading.Event()
        answers = _Answers(self.session.address, on_event)
        process = self._holder = self.session.start([self.python.path, self.program])

        def take(line: str) -> None:
            answers.take(line)
            if answers.last.get("event") == "held":
                self.folder = str(answers.last.get("path", ""))
                held.set()

        def follow() -> None:
            try:
                done = process.follow(None, take, _HEARTBEAT_S, answers.mark)
                answers.end(done.code, done.stderr)
            except DeviceError as error:
                answers.failure = error
            held.set()

        owner = f"{getpass.getuser()}@{platform.node()} (process {os.getpid()})"
        process.write(answers.request("hold", base=base, lock=lock, owner=owner, timeout_s=timeout_s))
        threading.Thread(target=follow, daemon=True).start()
        if not held.wait(timeout_s + 30):
            raise DeviceTimeoutError(f"{self.session.address} did not answer the request for its lock")
        if not self.folder:
            raise answers.failure or RunnerError(f"the runner on {self.session.address} ended early")

    def put_model(self, source: Path | bytes, suffix: str, progress: Progress | None = None) -> str:
        """Send a file into the session's folder, named by its content; its path there."""
        data = source if isinstance(source, bytes) else source.read_bytes()
        remote = f"{self.folder}/{hashlib.sha256(data).hexdigest()[:16]}{suffix}"
        self.session.put(data, remote, progress, parts=os.path.dirname(self.folder))  # outlives the folder, which goes when a link drops
        return remote

    def release(self) -> None:
        """Free everything on the device."""
        if self._holder is not None:
            self._holder.close_input()
            self._holder.ended.wait(10)
            self._holder.kill()

    def close(self) -> None:
        """Free everything on the device and close the session."""
        self.release()
        self.session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Answers:
    """The lines of one request, each an object whose first field is ``mark``: events are passed on, the result is kept."""

    def __init__(self, address: str, on_event: OnEvent | None) -> None:
        self.address, self.on_event = address, on_event
        self.mark = new_mark()
        self.last: JsonObject = {}
        self.failure: DeviceError | None = None
        self._result: JsonObject | None = None

    def request(self, action: str, **fields: Any) -> bytes:
        """The line to send."""
        return json.dumps({"action": action, "hold": True, "mark": self.mark, **fields}).encode() + b"\n"

    def take(self, line: str) -> None:
        try:
            message = printable_json(parse_json(_BEFORE_MARK + line))
            event, protocol = message["event"], message["protocol"]
        except (ValueError, KeyError, TypeError):
            self.failure = self._not_protocol(line)
            return
        self.last = message
        if protocol != PROTOCOL:
            self.failure = RunnerError(f"the runner on {self.address} speaks protocol {protocol}, and {PROTOCOL} was expected")
        elif event == "result":
            result = message.get("result")
            if isinstance(result, dict):
                self._result = result
            else:
                self.failure = self._not_protocol(line)
        elif event == "error":
            self.failure = to_error(message.get("error"), self.address)
        elif self.on_event:
            self._tell(self.on_event, line)

    def _tell(self, on_event: OnEvent, line: str) -> None:
        try:
            event = convert(self.last, DeviceEvent)
        except ValueError:
            self.failure = self._not_protocol(line)
            return
        on_event(event)

    def _not_protocol(self, line: str) -> RunnerError:
        return RunnerError(
            f"the runner on {self.address} said {line[:200]!r}, which is not its protocol",
            remedy="Another program answers in its place, or its Python is damaged: check it there, or name another with ?python=/path.",
        )

    def end(self, code: int, stderr: bytes) -> None:
        """Note how the runner ended."""
        if self._result is None and self.failure is None:
            last = printable(stderr).strip().splitlines()[-1:] or ["nothing on its standard error"]
            how = "was killed by a signal" if code < 0 else f"ended with exit code {code}"
            self.failure = RunnerError(f"the runner on {self.address} {how} and gave no result", remedy=f"Its last output: {last[0]}")

    def result(self, code: int, stderr: bytes) -> JsonObject:
        self.end(code, stderr)
        if self.failure:
            raise self.failure
        assert self._result is not None
        return self._result


def open_runner(
    address: str,
    engines: Sequence[str] = (),
    *,
    lock: bool = True,
    lock_timeout_s: float = 600.0,
    on_event: OnEvent | None = None,
    native: str | None = None,
    session: Session | None = None,
    accelerator: str = CPU,
) -> Runner:
    """Connect, find a Python that can import the runtime of each of ``engines``, push the runner, and hold the device.

    ``native``: path on the device of the binary of the engine ``native``, where it is not on the PATH.  ``session``: an open one to the
    address, to use instead of another; it is closed with the runner.  ``accelerator``: what the runtimes must be able to use.
    Raises what :func:`connect` raises, :class:`NoRuntimeError`, :class:`AcceleratorError`, :class:`DeviceFullError`,
    :class:`DeviceBusyError`.
    """
    session = session or connect(address)
    runner: Runner | None = None
    try:
        python = parse_address(address).python or (sys.executable if session.address == "local:" else None)
        found = discover(session, [python] if python else [])
        runner = _choose(session, found, push_runner(session, found.cache), engines, native, accelerator)
        runner.home = found.home
        runner.hold(found.cache, lock, lock_timeout_s, on_event)
        return runner
    except BaseException:
        runner.close() if runner else session.close()
        raise


def push_runner(session: Session, cache: str) -> str:
    """Send the runner into the device's folder unless it is there; its path.  Older ones that are not running are then removed."""
    name, content = build_runner()
    program = f"{cache}/{name}"
    session.mkdir(cache)
    if session.put(content, program):
        session.run(["sh", "-c", _PRUNE, "edgeprune", cache, program])
    return program


def _choose(session: Session, found: Found, program: str, engines: Sequence[str], native: str | None, accelerator: str) -> Runner:
    """The first Python with every runtime on that accelerator; when none is asked for, the first with any, else the first."""
    runners: list[Runner] = []
    failures: dict[str, str] = {}
    missing: list[str] = []
    for python in found.pythons:
        runner = Runner(session, python, program, {})
        runner.probe = runner.request("probe", 180.0, verify=list(engines), native=native, accelerator=accelerator)
        runners.append(runner)
        runtimes = runtimes_of(runner)
        errors = [one.error.message for engine in engines if (one := runtimes.get(engine)) and one.error]
        if not errors and (engines or runtimes):
            return runner
        failures[str(python)] = "; ".join(errors)
        missing += [one.error.message for one in runtimes.values() if one.error and one.error.kind == "accelerator"]
    if not engines:
        return runners[0]
    if missing:
        raise AcceleratorError(f"{session.address}: {missing[0]}", remedy=_NO_ACCELERATOR)
    # what is there and does not work explains more than what is missing
    python_text, why = min(failures.items(), key=lambda item: _MISSING in item[1])
    others = f" ({len(failures) - 1} more Pythons there have none either)" if len(failures) > 1 else ""
    remedy = PHONE_REMEDY if found.is_phone else advice(session.address, found.pythons[-1], engines)
    raise NoRuntimeError(
        f"{session.address} has no Python with a runtime for {' and '.join(engines)}: {python_text}: {why}{others}", remedy=remedy
    )


def runtimes_of(runner: Runner) -> dict[str, RuntimeAnswer]:
    """What the runner says of the runtimes, by engine.  Raises :class:`RunnerError`."""
    try:
        return convert(runner.probe.get("runtimes"), dict[str, RuntimeAnswer])
    except ValueError as error:
        raise RunnerError(f"the list of runtimes of {runner.session.address} is invalid: {error}") from error
