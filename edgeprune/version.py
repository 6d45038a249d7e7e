"""Which code this is: what another process or another machine must have as well."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path


@cache
def code_version() -> str:
    """Hash of edgeprune's sources and torch's version: other code may make another candidate of the same inputs."""
    import torch

    digest, package = hashlib.sha256(torch.__version__.encode()), Path(__file__).parent
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]
