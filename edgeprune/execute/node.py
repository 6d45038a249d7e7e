"""What a node of a Ray cluster does: says what it has, and does work."""

from __future__ import annotations

import os
import platform
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

from edgeprune.execute.shared import HERE
from edgeprune.execute.work import do
from edgeprune.host import end_tree
from edgeprune.version import sources

Versions = dict[str, str]

HEAR_S = 0.1
"""How soon a cancelled piece of work ends."""


def versions() -> Versions:
    """What must be the same on all nodes, by its name."""
    import torch

    python = ".".join(platform.python_version_tuple()[:2])
    return {"Python": python, "PyTorch": torch.__version__.partition("+")[0], "edgeprune's code": sources()}


def place() -> str:
    """Where this process is, for messages."""
    return f"process {os.getpid()} on node {socket.gethostname()}"


def frames(work: bytes, read: Callable[[str], bytes]) -> Iterator[bytes]:
    """Do ``work`` and give its frames as they come.  ``read``: gets a shared value. The work has a thread of its own, for it sends messages
    where Ray wants a generator. A cancelled one takes its process with it, and all that the work started."""
    HERE.read = read
    told: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def run() -> None:
        try:
            do(work, told.put, f"Raised by {place()}.")
        finally:
            told.put(None)

    thread = threading.Thread(target=run, name="work", daemon=True)
    thread.start()
    try:
        while (frame := _next(told)) is not None:
            yield frame
        thread.join()
    finally:
        if thread.is_alive():
            end_tree(os.getpid())


def _next(told: queue.SimpleQueue[bytes | None]) -> bytes | None:
    """What is told next.  Ray's interrupt of this thread is heard while it waits."""
    while True:
        with suppress(queue.Empty):
            return told.get(timeout=HEAR_S)
