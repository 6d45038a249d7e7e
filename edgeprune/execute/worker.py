"""A worker process of this machine: ``python -m edgeprune.execute.worker FOLDER``, started by :mod:`edgeprune.execute.processes`.

On stdin come pairs of folders to import from and a piece of work, on stdout go frames; each is pickled, with its length before it.  It ends
with all that it started when stdin closes, even in the middle of work: it never outlives its parent.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import struct
import sys
import threading
from pathlib import Path
from typing import IO

from edgeprune.host import end_tree

_LENGTH = struct.Struct(">Q")
READY = b"ready"


def write(stream: IO[bytes], data: bytes) -> None:
    """Write a frame, whole."""
    stream.write(_LENGTH.pack(len(data)))
    stream.write(data)
    stream.flush()


def read(stream: IO[bytes]) -> bytes | None:
    """The next frame; None where the stream ends, be it in the middle of one."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    data = stream.read(size := _LENGTH.unpack(head)[0])
    return data if len(data) == size else None


def serve(stream: IO[bytes], jobs: queue.Queue[bytes]) -> None:
    """Put every frame into ``jobs``; end this process and its children when there are no more."""
    while (data := read(stream)) is not None:
        jobs.put(data)
    end_tree(os.getpid(), group=True)
    os._exit(1)


def own_pipes() -> tuple[IO[bytes], IO[bytes]]:
    """The pipes to the parent, out of reach of what libraries print and of what they start."""
    source, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    return source, answers


def main(folder: Path) -> None:
    """Do work until stdin closes."""
    source, answers = own_pipes()
    jobs: queue.Queue[bytes] = queue.Queue()
    threading.Thread(target=serve, args=(source, jobs), daemon=True).start()
    from edgeprune.execute.shared import HERE
    from edgeprune.execute.work import do

    HERE.read = lambda key: (folder / key).read_bytes()
    write(answers, READY)
    while True:
        folders, work = pickle.loads(jobs.get())
        sys.path.extend(folder for folder in folders if folder not in sys.path)
        do(work, lambda frame: write(answers, frame))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
