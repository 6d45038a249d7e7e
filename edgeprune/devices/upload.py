"""Uploading through one command: a script on the device offers what an earlier upload left, takes the rest, checks it and renames it.

Nothing but a POSIX shell and ``sha256sum`` is needed there.  One channel and one round trip cost less than a file transfer protocol's
requests, and the stream keeps the whole window full.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgeprune.budget import format_quantity
from edgeprune.devices.framing import new_mark
from edgeprune.devices.process import Process
from edgeprune.devices.session import Progress
from edgeprune.errors import DeviceError, DeviceFullError, printable

_WAIT_S = 60.0
_SLOWEST_B_S = 1e6  # a slow card's syncing and a slow processor's hashing
_FULL = ("No space left on device", "quota exceeded", "Read-only file system")
_DAMAGED = 3
_NO_TOOL = 127

# $0: what its lines begin with, $1: the file, $2: folder of parts, $3: SHA-256, $4: bytes.
# A part is named by content and by the process that writes it.  The part of a process that is gone, or that has received nothing for 3 s
# (its link is dead, and it does not know), is continued.  OpenSSL, where there is one, hashes up to three times as fast as older coreutils.
SCRIPT = r"""
LC_ALL=C mark=$0; export LC_ALL
file=$1 folder=$2 digest=$3 total=$4
mine=$folder/$digest.$$.part
hash() { { openssl dgst -sha256 -r < "$1" 2> /dev/null || sha256sum < "$1"; } | cut -c 1-64; }
size() { echo $(($(wc -c < "$1"))); }
fail() { rm -f "$mine"; set -- $(df -Pk "$folder" 2> /dev/null | tail -n 1); echo "$mark free $4"; exit 1; }

command -v sha256sum > /dev/null || exit 127
if [ -f "$file" ] && [ "$(size "$file")" = "$total" ] && [ "$(hash "$file")" = "$digest" ]; then  exit 0; fi

have=0
for part in "$folder/$digest".*.part; do
  [ -f "$part" ] || continue
  owner=${part%.part} owner=${owner##*.}
  if grep -q "$digest" "/proc/$owner/cmdline" 2> /dev/null; then
    before=$(size "$part"); [ "$before" -lt "$total" ] || continue
    sleep 3
    [ "$(size "$part" 2> /dev/null)" = "$before" ] || continue
    kill -9 "-$owner" 2> /dev/null
  fi
  if [ "$have" -gt 0 ]; then rm -f "$part"; else mv "$part" "$mine" 2> /dev/null && have=$(size "$mine"); fi
done
if [ "$have" -gt 0 ]; then echo "$mark have $have $(hash "$mine")"; else echo "$mark have 0 none"; fi
read -r keep || exit 1
[ "$keep" = "$have" ] || true > "$mine" || fail
cat >> "$mine" || fail
[ "$(size "$mine")" -ge "$total" ] || exit 1
sync "$mine" 2> /dev/null || sync
if [ "$(hash "$mine")" != "$digest" ]; then rm -f "$mine"; exit 3; fi
mv -f "$mine" "$file" || fail
"""


class Upload:
    """One file on its way to ``remote`` at ``address``.  ``run`` starts a command; ``send`` streams bytes to it and reports progress."""

    def __init__(self, source: Path | bytes, remote: str, address: str, parts: str | None) -> None:
        self._data = memoryview(source if isinstance(source, bytes) else source.read_bytes())
        self._digest = hashlib.sha256(self._data).hexdigest()
        self._remote, self._address = remote, address
        self._free = ""
        folder = parts or posixpath.dirname(remote) or "."
        self._mark = new_mark()
        self.argv = ["sh", "-c", SCRIPT, self._mark, remote, folder, self._digest, str(len(self._data))]

    def run(self, process: Process, send: Callable[[memoryview, Callable[[int], None]], Any], progress: Progress | None) -> bool:
        """Follow the script to its end; whether anything was sent.  Raises what :meth:`Session.put` raises."""
        begun = False
        total = len(self._data)

        def tell(sent: int) -> None:
            if progress:
                progress(sent, total)

        def take(line: str) -> None:
            nonlocal begun
            word, *values = line.split() or [""]
            if word == "have" and len(values) == 2 and values[0].isdecimal() and not begun:
                begun = True
                kept = self._kept(int(values[0]), values[1])
                process.write(f"{kept}\n".encode())
                send(self._data[kept:], lambda sent: tell(kept + sent))
                process.close_input()
            elif word == "free":
                self._free = values[0] if values else ""

        done = process.follow(_WAIT_S + total / _SLOWEST_B_S, take, mark=self._mark)
        if done.code != 0:
            raise self._error(done.code, printable(done.stderr).strip())
        return begun

    def _kept(self, have: int, digest: str) -> int:
        """How many bytes of an earlier upload are good."""
        return have if 0 < have <= len(self._data) and hashlib.sha256(self._data[:have]).hexdigest() == digest else 0

    def _error(self, code: int, stderr: str) -> DeviceError:
        if code == _NO_TOOL:
            return DeviceError(f"{self._address} has no sha256sum", remedy="Install coreutils (or busybox) there.")
        if code == _DAMAGED:
            return DeviceError(
                f"{self._remote} arrived damaged on {self._address}", remedy="Try again; if it happens again, check the device's disk."
            )
        return write_error(self._remote, self._address, stderr or f"the upload ended with exit code {code}", self._free)


def write_error(remote: str, address: str, stderr: str, free_kb: str = "") -> DeviceError:
    """The error for a command that failed on a file, from its own words: "tool: file: reason"."""
    reason = (stderr.strip().splitlines() or ["no reason given"])[0].rpartition(": ")[2]
    if not any(text in reason for text in _FULL):
        return DeviceError(f"cannot use {remote} on {address}: {reason}")
    free = f" (free: {format_quantity('size', int(free_kb) * 1024)})" if free_kb.isdigit() else ""
    remedy = "Make its disk writable." if _FULL[-1] in reason else "Free some space there."
    return DeviceFullError(f"cannot write {remote} on {address}: {reason}{free}", remedy=remedy)
