"""Ends this process and its children when the host is gone."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import threading
from typing import Callable, Optional

from .protocol import MAX_SILENCE_S

ENDED = "standard input ended"
_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies (prctl(2)); without Linux, the end of standard input does it later."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def hear(within_s: float, descriptor: int = 0) -> Optional[bytes]:
    """What the host says within that time: None for nothing, empty when the input has ended."""
    return os.read(descriptor, 4096) if select.select([descriptor], [], [], within_s)[0] else None


def wait_for_silence(descriptor: int = 0, silence_s: float = MAX_SILENCE_S) -> str:
    """Read until the input ends or says nothing for ``silence_s``; which of the two."""
    while (said := hear(silence_s, descriptor)) is not None:
        if not said:
            return ENDED
    return f"silence for {silence_s:.0f} s"


def start(on_gone: Callable[[], None]) -> None:
    """Watch standard input in a thread; when the host is gone, call ``on_gone`` and kill the process group."""

    def watch() -> None:
        reason = wait_for_silence()
        try:
            on_gone()
            sys.stderr.write(f"the host is gone ({reason})\n")
            sys.stderr.flush()
        finally:
            kill_group()

    threading.Thread(target=watch, daemon=True).start()


def kill_group() -> None:
    """Kill this process with its children.  Children die by themselves when their parent does; the group is for other systems."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
