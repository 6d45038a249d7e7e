"""What runs on a device as one reproducible file."""

from __future__ import annotations

import hashlib
import io
import zipfile
from functools import cache
from importlib.resources.abc import Traversable

from edgeprune.resources import resource

_DATE = (1980, 1, 1, 0, 0, 0)


def _files(folder: Traversable, prefix: str) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for entry in folder.iterdir():
        if entry.is_dir() and entry.name != "__pycache__":
            found |= _files(entry, f"{prefix}/{entry.name}")
        elif entry.name.endswith(".py"):
            found[f"{prefix}/{entry.name}"] = entry.read_bytes()
    return found


@cache
def pack(name: str) -> bytes:
    """The folder ``targets/<name>`` as a zip that Python runs by its ``app.main``, the same for the same sources."""
    package = f"edgeprune_{name}"
    main = f"import sys\n\nfrom {package}.app import main\n\nsys.exit(main())\n"
    files = {"__main__.py": main.encode()} | _files(resource("targets", name), package)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(files):
            entry = zipfile.ZipInfo(path, _DATE)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, files[path])
    return packed.getvalue()


def build_runner() -> tuple[str, bytes]:
    """The runner's file name, which holds its content's hash, and its bytes."""
    content = pack("runner")
    return f"runner-{hashlib.sha256(content).hexdigest()[:16]}.pyz", content
