"""Files that are whole or not there, and on the disk."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from contextlib import suppress
from typing import Any, Dict

_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS)


class Refused(Exception):
    """What is asked must not be done; ``kind`` is one word."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def sync(path: str) -> None:
    """Have a file, or a folder's list of names, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write(path: str, data: bytes) -> None:
    """All of a file or nothing."""
    temporary = path + ".new"
    if os.path.lexists(temporary):  # of another user, perhaps, whom the power left in the middle
        os.unlink(temporary)
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync(os.path.dirname(path))


def write_json(path: str, value: Any) -> None:
    """A value as a JSON file, the same for the same value."""
    write(path, json.dumps(value, indent=1, sort_keys=True).encode() + b"\n")


def read_json(path: str, kind: str = "damaged") -> Any:
    """The value in a JSON file, None when there is none; :class:`Refused`, of a kind, when it is damaged."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        raise Refused(kind, "%s is damaged" % path) from None


def link(source: str, path: str) -> None:
    """A second name for a file, replacing what had it; a copy where the disk knows no links."""
    temporary = path + ".new"
    if os.path.lexists(temporary):
        os.unlink(temporary)
    try:
        os.link(source, temporary)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        shutil.copyfile(source, temporary)
    sync(temporary)
    os.replace(temporary, path)


def open_to_others(path: str) -> None:
    """Let those read a file who may read what is made here."""
    umask = os.umask(0o077)
    os.umask(umask)
    with suppress(PermissionError):  # another user's, of the same group
        if os.stat(path).st_mode & 0o777 != 0o666 & ~umask:
            os.chmod(path, 0o666 & ~umask)


def is_whole(path: str, entry: Dict[str, Any]) -> bool:
    """Whether there is an ordinary file with the ``bytes`` and ``sha256`` of the entry."""
    try:
        if os.path.islink(path) or not os.path.isfile(path) or os.path.getsize(path) != entry["bytes"]:
            return False
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
        return digest.hexdigest() == entry["sha256"]
    except OSError:
        return False
