"""Small text files of /proc and /sys, read with care: any of them may be missing."""

from __future__ import annotations

import glob
import os
from typing import List, Optional


def text(root: str, path: str) -> Optional[str]:
    """A file's text without surrounding white space and NULs, or None."""
    try:
        with open(os.path.join(root, path), encoding="utf-8", errors="replace") as file:
            return file.read().strip().strip("\0").strip()
    except OSError:
        return None


def number(root: str, path: str) -> Optional[int]:
    """A file's whole number, or None."""
    try:
        return int(text(root, path) or "")
    except ValueError:
        return None


def paths(root: str, pattern: str) -> List[str]:
    """Paths below ``root`` that match, sorted, relative to it."""
    return sorted(os.path.relpath(path, root) for path in glob.glob(os.path.join(root, pattern)))
