"""Operating system, C library, Python, and an identity of this machine."""

from __future__ import annotations

import hashlib
import platform
import sys
from typing import Any, Dict

from .files import text


def os_name(os_release: str) -> str:
    """``PRETTY_NAME`` of an ``/etc/os-release`` text, or an empty string."""
    for line in os_release.splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip().strip("\"'")
    return ""


def probe(root: str = "/") -> Dict[str, Any]:
    """``machine`` is a hash of the machine id, or of the host name where there is none."""
    identity = text(root, "etc/machine-id") or platform.node()
    libc, version = platform.libc_ver()
    return {
        "os": os_name(text(root, "etc/os-release") or "") or platform.system(),
        "kernel": platform.release(),
        "libc": f"{libc} {version}".strip(),
        "python": platform.python_version(),
        "python_path": sys.executable,
        "hostname": platform.node(),
        "machine": hashlib.sha256(identity.encode()).hexdigest()[:12],
    }
