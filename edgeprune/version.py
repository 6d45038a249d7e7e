"""Which code this is: what another process or another machine must have as well."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path


@cache
def sources() -> str:
    """Hash of edgeprune's sources."""
    digest, package = hashlib.sha256(), Path(__file__).parent
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def code_version() -> str:
    """Of edgeprune's sources and torch's version: other code may make another candidate of the same inputs."""
    import torch

    return hashlib.sha256(f"{torch.__version__} {sources()}".encode()).hexdigest()[:16]
