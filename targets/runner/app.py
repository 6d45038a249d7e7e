"""Entry point: the parent, a model's process, or the guard of tuned clocks.  Each imports only what it needs, for models start often."""

from __future__ import annotations

import os
import signal
import sys
from typing import List, Optional


def main(arguments: Optional[List[str]] = None) -> int:
    """Run as the parent, or with ``--child`` as a model's process; the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments == ["--child"]:
        from .child import serve

        return serve()
    if arguments[:1] == ["--guard"]:
        from .tune import guard

        return guard(arguments[1])
    from .protocol import PROTOCOL, Output

    if arguments == ["--version"]:
        print(PROTOCOL)
        return 0
    from .actions import answer

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))
    if os.getpgrp() != os.getpid() and os.getsid(0) != os.getpid():
        os.setpgid(0, 0)
    return answer(Output())
