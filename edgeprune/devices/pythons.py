"""The Pythons of a device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeprune.decode import convert
from edgeprune.devices.framing import new_mark
from edgeprune.devices.session import Session
from edgeprune.errors import DeviceError, NoRuntimeError, printable
from edgeprune.files import parse_json

VENV = ".edgeprune/venv"
"""Below the device's home: the environment that :func:`~edgeprune.devices.provision.set_up` makes, and that is looked into first."""
LEAST_PYTHON = (3, 9)
PHONE_REMEDY = (
    "Two ways: in Termux, pkg install python and put TensorFlow's benchmark_model for Android on the PATH, which runs .tflite files "
    "(engine native); or pkg install proot-distro && proot-distro install debian, and use the address of an SSH server inside it."
)

# Prints home, cache folder and system, then one JSON line for each Python that starts; every line begins with $0.  $1 is the Python program
# below; more arguments replace the list.
_DISCOVER = """
printf '%s%s\\n' "$0" "$HOME" "$0" "${XDG_CACHE_HOME:-$HOME/.cache}/edgeprune" "$0" "$(uname -o 2> /dev/null || uname -s)"
program=$1; shift
[ $# -gt 0 ] || {
  set -- "$HOME"/.edgeprune/venv/bin/python "$HOME"/venv/bin/python "$HOME"/.venv/bin/python "$HOME"/*/bin/python python3 python
}
for candidate in "$@"; do
  found=$(command -v "$candidate") || continue
  "$found" -c "$program" < /dev/null 2> /dev/null | while IFS= read -r line; do printf '%s%s\\n' "$0" "$line"; done
done
"""
# A 64-bit kernel may carry a 32-bit system: the pointer's size decides which wheels fit.
_DESCRIBE = """
import json, platform, struct, sys
arch = platform.machine()
if struct.calcsize("P") == 4:
    arch = {"aarch64": "armv7l", "armv8l": "armv7l", "x86_64": "i686"}.get(arch, arch)
base = getattr(sys, "_base_executable", None) or sys.executable
print(json.dumps([sys.executable, list(sys.version_info[:3]), arch, " ".join(platform.libc_ver()), base]))
"""


@dataclass(frozen=True)
class Python:
    """A Python on the device: path, version, architecture, C library; ``base``: the installation that a virtual environment is of."""

    path: str
    version: tuple[int, ...]
    arch: str
    libc: str
    base: str = ""

    def __str__(self) -> str:
        return f"{self.path} (Python {'.'.join(map(str, self.version))}, {self.arch}, {self.libc or 'unknown C library'})"


@dataclass(frozen=True)
class Found:
    """``cache``: the folder for the runner and sessions; ``system``: such as ``GNU/Linux`` or ``Android``; ``pythons``: best first."""

    home: str
    cache: str
    system: str
    pythons: tuple[Python, ...]

    @property
    def is_phone(self) -> bool:
        """Android, as under Termux: wheels for Linux do not install there."""
        return self.system == "Android"


def discover(session: Session, candidates: Sequence[str] = ()) -> Found:
    """Look for Pythons: ``candidates`` (names or paths), or the usual places, edgeprune's own environment first.

    Raises :class:`NoRuntimeError` when none is 3.9 or newer, :class:`DeviceError` when there is no home folder.
    """
    said: list[str] = []
    mark = new_mark()
    session.run(["sh", "-c", _DISCOVER, mark, _DESCRIBE, *candidates], on_line=said.append, mark=mark)
    home, cache, system, *lines = [*map(printable, said), "", "", ""]
    if not home.startswith("/"):
        raise DeviceError(
            f"{session.address} has no usable home folder: HOME is {home!r}", remedy="Give the account a home folder (usermod --home)."
        )
    seen = {item.path: item for item in map(_parse, lines) if item}
    pythons = tuple(item for item in seen.values() if item.version >= LEAST_PYTHON)
    found = Found(home, cache, "Android" if session.address.startswith("adb:") else system, pythons)
    if not pythons:
        has = "; it has " + ", ".join(map(str, seen.values())) if seen else ""
        named = len(candidates) == 1
        which = f"{candidates[0]} is not a Python that runs on {session.address}" if named else f"{session.address} has no Python"
        remedy = "Install python3 there, or name one: ssh://host?python=/path."
        raise NoRuntimeError(f"{which}, version 3.9 or newer{has}", remedy=PHONE_REMEDY if found.is_phone else remedy)
    return found


def _parse(line: str) -> Python | None:
    """A Python as it described itself; None for what is not such a description."""
    try:
        path, version, arch, libc, base = convert(parse_json(line), tuple[str, tuple[int, ...], str, str, str])
        return Python(path, version, arch, libc, base)
    except ValueError:
        return None
