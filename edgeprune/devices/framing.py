"""What separates a command's output from all that a login shell prints: marks that nothing else can know.

A command behind a login shell prints an *opening*, a line with a mark, on both of its outputs: what comes before it is the shell's.  A
program that answers in lines begins each of them with a mark of its own: lines without it are passed over.
"""

from __future__ import annotations

import re
import secrets
import shlex
from collections.abc import Sequence

from edgeprune.errors import DeviceError

MOST_BYTES = 1 << 26
"""The longest output that a command may have."""
_MOST_LINE = 1 << 28  # a model's outputs, as text
_MOST_FOREIGN = 1 << 25
_QUOTED = 300
_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 _-+=.,:;/@^(){}[]<>|&#~?*%")
_WORD = 180  # of up to five characters each: csh takes 1,023
# in this order: where a start-up file has joined the two, the last opening counts
_OPEN = "printf '\\n%s\\n' {mark}-stderr >&2; printf '\\n%s\\n' {mark}-stdout; exec {command}"


def new_mark() -> str:
    """A text that no output holds by chance."""
    return f"edgeprune-{secrets.token_hex(8)}"


def opened(argv: Sequence[str], mark: str) -> str:
    """POSIX shell code that prints the opening ``mark`` on both outputs and becomes the command ``argv``."""
    return _OPEN.format(mark=mark, command=shlex.join(argv))


def login_line(argv: Sequence[str], mark: str) -> str:
    """:func:`opened` as one line that every kind of login shell (sh, bash, zsh, fish, csh, busybox) hands on to ``sh`` as it is.

    csh takes no line breaks and no long words, and expands ``!`` between single quotes; fish removes backslashes there: all but plain
    characters are written as octal numbers, in short words.
    """
    code = "".join(chr(byte) if byte in _SAFE else f"\\0{byte:03o}" for byte in opened(argv, mark).encode())
    words = re.findall(rf"(?:[^\\]|\\0...){{1,{_WORD}}}", code)
    return 'exec sh -c \'eval "$(printf %b "$@")"\' sh ' + " ".join(f"'{word}'" for word in words)


class Opening:
    """Drops the beginning of an output (``stdout`` or ``stderr``), up to its opening; ``said``: the first of what was dropped."""

    def __init__(self, mark: str, stream: str) -> None:
        self._mark = f"\n{mark}-{stream}\n".encode()
        self._tail = b""
        self.said = b""
        self.found = False

    def feed(self, data: bytes) -> bytes:
        """What of more output is the command's."""
        if self.found:
            return data
        before, self.found, after = self._partition(self._tail + data)
        if len(self.said) < _QUOTED:
            self.said += before[: _QUOTED - len(self.said)]
        return after

    def _partition(self, data: bytes) -> tuple[bytes, bool, bytes]:
        before, mark, after = data.partition(self._mark)
        if mark:
            self._tail = b""
            return before, True, after
        keep = min(len(data), len(self._mark) - 1)
        self._tail = data[len(data) - keep :]
        return data[: len(data) - keep], False, b""

    def end(self) -> None:
        """Nothing more comes: what was held back in search of the mark belongs to what was said."""
        self.said += b"" if self.found else self._tail


class Ending:
    """Takes a line ``<mark> <code>`` out of an output that comes in pieces; ``code`` is its number, once it has come."""

    def __init__(self, mark: str) -> None:
        self._line = re.compile(rb"%s (\d+)\n" % mark.encode())
        self._begun = re.compile(rb"%s(?: \d*)?" % mark.encode())
        self._mark, self._held = mark.encode(), b""
        self.code: int | None = None

    def feed(self, data: bytes) -> bytes:
        """What of more output is not that line.  A piece that may be its beginning is held back until more comes."""
        data = self._held + data
        if match := self._line.search(data):
            self.code = int(match[1])
            data = data[: match.start()] + data[match.end() :]
        place = data.rfind(self._mark)
        if place < 0 or not self._begun.fullmatch(data, place):
            sizes = range(min(len(data), len(self._mark) - 1), 0, -1)
            place = next((len(data) - size for size in sizes if self._mark.startswith(data[-size:])), len(data))
        self._held = data[place:]
        return data[:place]

    def end(self) -> bytes:
        """What was held back, when nothing more comes."""
        held, self._held = self._held, b""
        return held


class LineReader:
    """Cuts an output into lines; with a ``mark`` only those that hold it, from behind it on.

    What is not passed on is bounded: :class:`DeviceError` for an endless line, and for more than 32 MB without the mark.
    """

    def __init__(self, address: str, mark: str | None) -> None:
        self._address, self._mark = address, mark.encode() if mark else b""
        self._parts: list[bytes] = []
        self._size = self._foreign = 0

    def feed(self, data: bytes) -> list[str]:
        """The lines that more output completes."""
        *complete, rest = data.split(b"\n")
        lines = []
        for part in complete:
            line = b"".join((*self._parts, part))
            self._parts, self._size = [], 0
            before, mark, text = line.partition(self._mark) if self._mark else (b"", b"mark", line)
            if mark:
                lines.append(text.decode("utf-8", "replace"))
            self._count(len(before))
        self._parts.append(rest)
        self._size += len(rest)
        self._bound()
        return lines

    def _bound(self) -> None:
        """Of a line that has not ended only what may yet be needed is kept."""
        if self._size > _MOST_LINE:
            raise _endless(self._address)
        if self._mark and len(self._parts) > 1 and self._size > 1 << 20 and self._mark not in (line := b"".join(self._parts)):
            keep = line[1 - len(self._mark) :]
            self._count(len(line) - len(keep))
            self._parts, self._size = [keep], len(keep)

    def _count(self, foreign: int) -> None:
        self._foreign += foreign
        if self._foreign > _MOST_FOREIGN:
            raise _endless(self._address)


class Kept:
    """An output as a whole.  :class:`DeviceError` when it is longer than ``most`` bytes; with ``ends`` its middle is dropped instead."""

    def __init__(self, address: str, most: int = MOST_BYTES, ends: bool = False) -> None:
        self._address, self._most, self._ends = address, most, ends
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> None:
        """Take more."""
        self._parts.append(data)
        self._size += len(data)
        if self._size > self._most:
            if not self._ends:
                raise _endless(self._address)
            whole, half = b"".join(self._parts), self._most // 4
            self._parts = [whole[:half], whole[-half:]]
            self._size = 2 * half

    @property
    def content(self) -> bytes:
        """All that is kept."""
        return b"".join(self._parts)


def _endless(address: str) -> DeviceError:
    return DeviceError(
        f"{address} keeps sending output that was not requested",
        remedy="Something that its login shell or its Python starts prints all the time. Log in with ssh, run true, and see what appears.",
    )
