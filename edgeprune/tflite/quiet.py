"""Silence for libraries that write to standard error by themselves."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_LOCK = threading.RLock()


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Without what a library's C++ writes on standard error (TFLite's line about its delegate): there is no switch for it.

    One thread at a time: the file descriptor is the whole process's.
    """
    with _LOCK:
        sys.stderr.flush()
        kept = os.dup(2)
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
