"""Run by itself: edgeprune's command line without what only POSIX systems have, as on a Windows host."""

from __future__ import annotations

import os
import signal
import sys
from importlib.abc import MetaPathFinder
from typing import Any

MODULES = ("fcntl", "pwd", "grp", "resource", "termios", "tty", "pty", "crypt", "syslog")
OF_OS = ("fork", "forkpty", "killpg", "setsid", "getloadavg")
LIBRARIES = (
    *("filelock", "psutil", "torch", "torch.export", "platformdirs", "paramiko", "rich.console", "rich.progress", "scipy.optimize"),
    *("sqlalchemy", "safetensors.torch", "cryptography", "msgspec", "flatbuffers", "ai_edge_litert.interpreter", "multiprocessing.util"),
)
"""What edgeprune imports: each has a form of its own for Windows, and is imported before anything is hidden."""


class Hidden(MetaPathFinder):
    """Finds none of ``MODULES`` for edgeprune and for what it imports itself; psutil and the standard library keep theirs."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name in MODULES and _from_edgeprune():
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def _from_edgeprune() -> bool:
    frame = sys._getframe(2)
    while frame is not None and ("importlib" in frame.f_code.co_filename or frame.f_code.co_filename == __file__):
        frame = frame.f_back  # type: ignore[assignment]
    return frame is not None and f"{os.sep}edgeprune{os.sep}" in frame.f_code.co_filename


def hide() -> None:
    """From here on edgeprune finds none of it: what is imported already is looked up again."""
    for name in MODULES:
        sys.modules.pop(name, None)
    sys.meta_path.insert(0, Hidden())
    del signal.SIGHUP


def hide_functions() -> None:
    """Take away what ``os`` does not have on Windows; other libraries have it by then."""
    for name in OF_OS:
        if hasattr(os, name):
            delattr(os, name)


if __name__ == "__main__":
    for library in LIBRARIES:
        __import__(library)
    hide()
    import edgeprune.cli

    hide_functions()
    for room in ("bench", "export", "search", "release", "report", "micro", "tasks", "runs"):
        __import__(f"edgeprune.{room}")
    sys.exit(edgeprune.cli.main(sys.argv[1:]))
