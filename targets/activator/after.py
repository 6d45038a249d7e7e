"""A command of the user's, run once ``current`` leads to another release."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from contextlib import suppress
from typing import Any, Dict

_KEPT_BYTES = 4096
_SILENCE_S = 30.0
_POLL_S = 0.1


def after(root: str, shell: str, timeout_s: float) -> Dict[str, Any]:
    """Run a shell command in the folder that ``current`` leads to, for ``timeout_s`` at most.

    Its exit code (None when it was ended), the end of what it said, and ``ended``: why it was, with all that it had started: it took too
    long, or the host fell silent, which sends a line every few seconds.  What continues beside it when it ends by itself is left alone.
    """
    folder = os.path.join(root, "current")
    process = subprocess.Popen(
        ["sh", "-c", shell],
        cwd=folder if os.path.isdir(folder) else "/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,
        start_new_session=True,
    )
    assert process.stdout is not None
    said, ended = b"", ""
    begun = heard = time.monotonic()
    watched = [process.stdout.fileno(), 0]
    while process.poll() is None and not ended:
        ready = select.select(watched, [], [], _POLL_S)[0]
        for stream in ready:
            data = os.read(stream, 1 << 16)
            if stream == 0:
                heard = time.monotonic()
                ended = "" if data else "gone"
            elif data:
                said = (said + data)[-_KEPT_BYTES:]
            else:
                watched.remove(stream)
        now = time.monotonic()
        if now - begun > timeout_s:
            ended = "late"
        elif now - heard > _SILENCE_S:
            ended = "gone"
    if ended:
        _end(process)
    while watched[0] != 0 and select.select(watched[:1], [], [], 0)[0]:
        data = os.read(watched[0], 1 << 16)
        if not data or len(said) > 1 << 20:
            break
        said = (said + data)[-_KEPT_BYTES:]
    return {"code": None if ended else process.returncode, "said": said.decode("utf-8", "replace"), "ended": ended}


def _end(process: "subprocess.Popen[bytes]") -> None:
    """The command and its process group: asked first, then killed."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(2.0)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # what is left of the group when its head has gone by itself
