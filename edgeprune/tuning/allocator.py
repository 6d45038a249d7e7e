"""The C library's memory while a model trains: what a step gives back is kept for the next."""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # malloc.h of glibc

_LARGEST: Final = 32 * 2**20
"""Above this size glibc asks the system for every piece on its own, whatever it is told (``HEAP_MAX_SIZE / 2``)."""

_KEPT: Final = 2**30
"""Bytes of free memory that are kept at most."""


@contextmanager
def kept_memory() -> Iterator[None]:
    """Keep freed memory inside, and give it back to the system afterwards.

    glibc returns the top of its heap as soon as it is free, so that every step is given the same pages again, which the system first fills
    with zeros: a sixth of a step of a small network. Elsewhere nothing is done.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        yield
        return
    library = ctypes.CDLL(None)
    try:
        for what, size in ((_MMAP_THRESHOLD, _LARGEST), (_TRIM_THRESHOLD, _KEPT), (_TOP_PAD, 64 * 2**20)):
            library.mallopt(what, size)
        yield
    finally:
        for what, size in ((_TRIM_THRESHOLD, 2 * _LARGEST), (_TOP_PAD, 128 * 2**10)):
            library.mallopt(what, size)
        library.malloc_trim(0)
