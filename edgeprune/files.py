"""Files that appear under their name only when they are complete.  One policy: flushed to the disk first, then named."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

_DEEPEST = 100
_TOO_DEEP = f"it is nested more than {_DEEPEST} deep"
_COUNTER = itertools.count()


def temporary_name(path: Path) -> Path:
    """A name beside ``path``, with its suffix, that no other writer uses."""
    return path.with_name(f".{path.stem}.{os.getpid()}.{next(_COUNTER)}.tmp{path.suffix}")


def move_atomically(source: Path, path: Path) -> None:
    """Give the complete file ``source`` the name ``path``, on the same file system.  Raises :class:`OSError`.

    ``path`` then holds either what it held before or all of the new content, after a loss of power too.
    """
    with source.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(source, path)


@contextmanager
def replacing(path: Path, temporary: Path | None = None) -> Iterator[Path]:
    """Write to the yielded path, a name of its own unless ``temporary`` is given; it becomes ``path`` when the block ends, see
    :func:`move_atomically`, and is removed when the block raises.  Raises :class:`OSError`.
    """
    temporary = temporary or temporary_name(path)
    try:
        yield temporary
        move_atomically(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write ``content`` (text as UTF-8) to ``path``, whole or not at all.  Raises :class:`OSError`."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def copy_atomically(source: Path, path: Path) -> None:
    """Copy the file ``source`` with its times and mode to ``path``, whole or not at all.  Raises :class:`OSError`."""
    with replacing(path) as temporary:
        shutil.copy2(source, temporary)


def append_line(path: Path, line: str) -> None:
    """Add a line of text to ``path``, flushed to the disk.  Raises :class:`OSError`."""
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let no other process be in such a block for a file of the same folder: for what reads ``path``, changes it and writes it again.

    The folder is made where there is none; the lock is a file in it.  Raises :class:`OSError`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.parent / ".lock")
    with suppress(OSError, NotImplementedError):  # file systems over a network may know no locks
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON document.

    Raises :class:`ValueError` alone: also for what is not UTF-8, for numbers of thousands of digits, and for lists and objects nested
    more than 100 deep, which whoever goes through them would fail on.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    layer = [value]
    for _ in range(_DEEPEST):
        layer = [inner for each in layer if isinstance(each, (list, dict)) for inner in (each.values() if isinstance(each, dict) else each)]
        if not layer:
            return value
    raise ValueError(_TOO_DEEP)
