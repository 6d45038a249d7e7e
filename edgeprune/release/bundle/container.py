"""The container of a bundle: a plain ``tar`` of regular files, of which there is exactly one form.

Each member is a 512-byte ustar header, the content, and zeros up to the next 512; two blocks of zeros end the file. Owner, mode and time
are fixed, so a header holds nothing but a name and a size: :func:`read_members` makes the header again and compares. A link, a device, a
long-name extension, a changed pad or anything behind the end is therefore no bundle, whatever ``tar`` would make of it.
Source: POSIX.1-1988 ustar (IEEE Std 1003.1, pax, "ustar Interchange Format").
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from edgeprune.errors import BundleError

BLOCK: Final = 512
END: Final = bytes(2 * BLOCK)
_TIME: Final = 315532800  # 1980-01-01, the earliest that a zip holds too
_LARGEST: Final = 8**11 - 1
_KINDS: Final = {b"1": "a hard link", b"2": "a symbolic link", b"3": "a device", b"4": "a device", b"5": "a folder", b"6": "a pipe"}


@dataclass(frozen=True)
class Member:
    """Where a member's content is in the file."""

    name: str
    offset: int
    size: int

    @property
    def end(self) -> int:
        """Where the next header begins."""
        return self.offset + -(-self.size // BLOCK) * BLOCK


def header(name: str, size: int) -> bytes:
    """The one header of a member.  Raises ``ValueError`` when the name has more than 100 bytes, or the size more than 8 GiB."""
    encoded = name.encode("ascii")
    if not 0 < len(encoded) <= 100 or not 0 <= size <= _LARGEST:
        raise ValueError(f"{name!r} of {size} bytes does not fit a tar header")
    numbers = b"0000644\0" + b"0000000\0" * 2 + b"%011o\0" % size + b"%011o\0" % _TIME
    rest = b"0" + bytes(100) + b"ustar\00000" + bytes(64) + b"0000000\0" * 2
    start = encoded.ljust(100, b"\0") + numbers
    total = sum(start) + 8 * ord(" ") + sum(rest)
    return (start + b"%06o\0 " % total + rest).ljust(BLOCK, b"\0")


def write_member(file: BinaryIO, name: str, size: int, chunks: Iterable[bytes]) -> None:
    """Append a member.  Raises ``ValueError`` when ``chunks`` are not ``size`` bytes together."""
    file.write(header(name, size))
    written = 0
    for chunk in chunks:
        file.write(chunk)
        written += len(chunk)
    if written != size:
        raise ValueError(f"{name} has {written} bytes, not {size}")
    file.write(bytes(-size % BLOCK))


def read_members(file: BinaryIO, path: Path, most: int) -> list[Member]:
    """The members of a container, in order; only headers and pads are read.

    Raises :class:`BundleError` on anything but the one form, a name that is there twice, or more than ``most`` members.
    """
    total = os.fstat(file.fileno()).st_size
    if total < len(END) or total % BLOCK:
        raise BundleError(f"{path} is cut off, or not a bundle: it has {total} bytes", remedy="Get the file again.")
    members: list[Member] = []
    position, names = 0, set[str]()
    while position < total - len(END):
        if len(members) == most:
            raise BundleError(f"{path} has more than {most} members")
        member = _read_member(file, path, position, total)
        if member.name in names:
            raise BundleError(f"{path} has {member.name!r} twice")
        names.add(member.name)
        members.append(member)
        position = member.end
    file.seek(position)
    if file.read(len(END)) != END:
        raise BundleError(f"{path} has no end marker: it is cut off, or not a bundle", remedy="Get the file again.")
    return members


def _read_member(file: BinaryIO, path: Path, position: int, total: int) -> Member:
    file.seek(position)
    found = file.read(BLOCK)
    name, size = _name_and_size(found, path, position)
    if header(name, size) != found:
        if kind := _KINDS.get(found[156:157]):
            raise BundleError(f"{path}: {name!r} is {kind}, and a bundle holds files only")
        raise BundleError(f"{path}: the header of {name!r} at byte {position} is damaged, or not of a bundle")
    member = Member(name, position + BLOCK, size)
    if member.end > total - len(END):
        raise BundleError(f"{path} is cut off in {name!r}, of {size} bytes", remedy="Get the file again.")
    file.seek(member.offset + size)
    if any(file.read(member.end - member.offset - size)):
        raise BundleError(f"{path}: the bytes after {name!r} are not zeros")
    return member


def _name_and_size(block: bytes, path: Path, position: int) -> tuple[str, int]:
    try:
        name, size = block[:100].rstrip(b"\0").decode("ascii"), int(block[124:135].decode("ascii"), 8)
        header(name, size)
    except ValueError as error:
        raise BundleError(f"{path} is not a bundle: byte {position} does not start a member") from error
    return name, size
