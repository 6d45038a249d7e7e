"""An Android device by adb: everything is a command over its shell protocol, version 2 (Android 7 and newer)."""

from __future__ import annotations

import os
import re
import select
import shlex
import shutil
import subprocess
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

from edgeprune.devices.address import Address
from edgeprune.devices.commands import CommandSession, StreamProcess
from edgeprune.devices.framing import Ending, new_mark, opened
from edgeprune.devices.local import LocalProcess
from edgeprune.errors import AuthenticationError, ConnectionLostError, DeviceError, DeviceTimeoutError, TargetError, UnreachableError

_STALL_S = 30.0
_TOLD = 1 << 20
_LAST_WORDS = 4096
_LOOK_S = 0.05
_NETWORK = re.compile(r"\[?[\w.:-]+\]?:\d+")
# /data/local/tmp is where adb's user may write and run; TMPDIR names it since Android 10.  adb itself ends with 0 when the connection
# breaks, so that the command's own end is reported; a hang-up is passed on to it.
_WRAP = """
export HOME="${TMPDIR:-/data/local/tmp}" TMPDIR="${TMPDIR:-/data/local/tmp}"
exec 3<&0
command= left=
trap 'left=1; [ -z "$command" ] || kill -HUP $command' HUP
(%(command)s) <&3 3<&- &
command=$!
[ -z "$left" ] || kill -HUP $command
exec 3<&-
wait $command
printf '%%s %%s\\n' %(end)s $? >&2
"""


class AdbProcess(LocalProcess, StreamProcess):
    """``adb shell`` with a command, run by an ``sh`` of its own: what a start-up file set up for the login shell ends with that."""

    by_hand = "adb shell"

    def __init__(self, adb: Sequence[str], address: str, argv: Sequence[str]) -> None:
        self._adb, self._words, self._ended = list(adb), b"", threading.Event()
        mark, end = new_mark(), new_mark()
        self._endings = {stream: Ending(end) for stream in ("stderr", "stdout")}  # a start-up file may have joined them
        wrapped = _WRAP % {"command": opened(argv, mark), "end": end}
        super().__init__([*adb, "shell", "-T", f"exec sh -c {shlex.quote(wrapped)}"], argv[0], address, mark)

    def write(self, data: bytes) -> None:
        with suppress(DeviceTimeoutError):  # a command that reads nothing
            self.send(memoryview(data))

    def send(self, data: memoryview, progress: Callable[[int], None] | None = None) -> None:
        assert self._popen.stdin is not None
        sent = 0
        with suppress(OSError, ValueError):  # it has ended
            descriptor = self._popen.stdin.fileno()
            os.set_blocking(descriptor, False)
            while sent < len(data):
                if not select.select([], [descriptor], [], _STALL_S)[1]:
                    raise DeviceTimeoutError(f"{self.address} accepted no data for {_STALL_S:.0f} s")
                end = min(len(data), (sent // _TOLD + 1) * _TOLD)
                sent += os.write(descriptor, data[sent:end])
                if progress and sent == end:
                    progress(sent)

    def _read(self, stream: str) -> bytes:
        ending, file = self._endings[stream], self._popen.stdout if stream == "stdout" else self._popen.stderr
        while file is not None and not file.closed and (data := super()._read(stream)):
            if stream == "stderr":
                self._words = (self._words + data)[-_LAST_WORDS:]
            data = ending.feed(data)
            if ending.code is not None:
                self._ended.set()
            if data:
                return data
        return ending.end()

    def _exit(self) -> None:
        """Until the command's end is reported, or adb ends: adb goes on as long as anything on the device holds the outputs."""
        while self._popen.poll() is None and not self._ended.wait(_LOOK_S):
            pass

    def _code(self) -> int:
        code = next((each.code for each in self._endings.values() if each.code is not None), None)
        if code is None:
            code = self._popen.wait()
            if self._openings["stdout"].found or self._dropped.is_set() or not self._is_there():
                raise lost(self.address, self._words.decode("utf-8", "replace"))
        else:
            self._cut()
            self._popen.wait()
        return 128 - code if code > 128 else code  # what a shell makes of a signal

    def _is_there(self) -> bool:
        with suppress(OSError, subprocess.TimeoutExpired):
            asked = subprocess.run([*self._adb, "get-state"], capture_output=True, stdin=subprocess.DEVNULL, timeout=_STALL_S, check=False)
            return asked.stdout.strip() == b"device"
        return False


class AdbSession(CommandSession):
    """Commands by one adb client each; adb's own server holds the connection.  ``adb``: the client with the device's serial number."""

    def __init__(self, address: str, adb: Sequence[str]) -> None:
        self.address, self._adb = address, list(adb)

    def start(self, argv: Sequence[str]) -> AdbProcess:
        return AdbProcess(self._adb, self.address, argv)

    def close(self) -> None:
        """Nothing is held."""


def lost(address: str, words: str) -> ConnectionLostError:
    """The error for a connection that broke in use."""
    last = (words.strip().splitlines() or ["it ended without a message"])[-1].removeprefix("error: ")
    return ConnectionLostError(f"the connection to {address} was lost: {last}", remedy="Check its cable or network: adb devices.")


def open_adb(address: Address, timeout_s: float) -> AdbSession:
    """Connect to the device of a serial number; one of the form host:port is connected to first.

    Raises :class:`DeviceError` without adb, or for an Android that is too old, :class:`TargetError` for an unknown serial number,
    :class:`AuthenticationError` when the device has not accepted this machine, :class:`UnreachableError`.
    """
    sdk = os.environ.get("ANDROID_HOME")
    program = shutil.which("adb") or (shutil.which("adb", path=os.path.join(sdk, "platform-tools")) if sdk else None)
    if program is None:
        raise DeviceError("adb is not installed on this machine", remedy="Install Android's platform-tools, such as apt-get install adb.")
    serial = address.host
    if _NETWORK.fullmatch(serial):
        said = _ask([program, "connect", serial], address, timeout_s)
        if "connected to" not in said:
            raise UnreachableError(f"{address.text} cannot be reached: {said}", remedy="Is wireless debugging on, and paired (adb pair)?")
    adb = [program, "-s", serial]
    _check_state(_ask([*adb, "get-state"], address, timeout_s), program, address, timeout_s)
    if "shell_v2" not in _ask([*adb, "features"], address, timeout_s):
        raise DeviceError(f"{address.text} is too old: its adb does not report exit codes", remedy="Android 7 or newer is needed.")
    return AdbSession(address.text, adb)


def _ask(argv: list[str], address: Address, timeout_s: float) -> str:
    """What an adb command says, on either output."""
    try:
        done = subprocess.run(argv, capture_output=True, stdin=subprocess.DEVNULL, timeout=timeout_s + 10, check=False)
    except subprocess.TimeoutExpired as error:
        raise UnreachableError(
            f"adb did not answer about {address.text} within {timeout_s + 10:.0f} s", remedy="adb kill-server"
        ) from error
    return (done.stdout + done.stderr).decode("utf-8", "replace").strip()


def _check_state(state: str, program: str, address: Address, timeout_s: float) -> None:
    if state.splitlines()[:1] == ["device"]:  # then, the first time, that adb's server was started
        return
    if "unauthorized" in state or "authorizing" in state or "no permissions" in state:
        raise AuthenticationError(
            f"{address.text} has not accepted this machine", remedy="Unlock it, and allow USB debugging on its screen."
        )
    if "not found" in state:
        lines = _ask([program, "devices"], address, timeout_s).splitlines()
        known = ", ".join(line.split("\t")[0] for line in lines if "\t" in line) or "none"
        raise TargetError(f"adb knows no device {address.host!r}", remedy=f"Its devices: {known}. Is it plugged in, with USB debugging on?")
    raise UnreachableError(f"{address.text} is not ready: {state.removeprefix('error: ')}", remedy="Plug it in again, or adb reconnect.")
