"""What runs and what lies on a device whose files and processes this machine sees."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path


def wait_until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Poll; fails the test when it does not come true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.05)


def runners(home: Path) -> list[int]:
    """Process ids of all runners, and their children, that were started from a home folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                argv = (entry / "cmdline").read_text().split("\0")
                if len(argv) > 1 and argv[1].startswith(f"{home}/.cache/edgeprune/runner-"):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def sessions(home: Path) -> list[Path]:
    return list(home.glob(".cache/edgeprune/session-*"))
