"""Small wheels, made in a millisecond (binary distribution format of the Python packaging user guide)."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

# What the runner imports of the real one.
INTERPRETER = """\
class Interpreter:
    def __init__(self, **given):
        pass

    def allocate_tensors(self):
        pass
"""
LITERT = {"ai_edge_litert/__init__.py": "", "ai_edge_litert/interpreter.py": INTERPRETER}


def make_wheel(
    folder: Path,
    name: str,
    version: str = "1.0",
    *,
    files: Mapping[str, str] | None = None,
    needs: Sequence[str] = (),
    tag: str = "py3-none-any",
) -> Path:
    """A wheel with ``files`` (text by path), which ``needs`` others (``Requires-Dist``).  A path that starts with ``+`` is executable."""
    stem = f"{name.replace('-', '_')}-{version}"
    path = folder / f"{stem}-{tag}.whl"
    folder.mkdir(parents=True, exist_ok=True)
    headers = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {need}" for need in needs)]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, text in (files or {f"{name.replace('-', '_')}.py": ""}).items():
            entry = zipfile.ZipInfo(member.removeprefix("+"))
            entry.external_attr = (0o755 if member.startswith("+") else 0o644) << 16
            archive.writestr(entry, text, zipfile.ZIP_DEFLATED)
        archive.writestr(f"{stem}.dist-info/METADATA", "\n".join(["Metadata-Version: 2.1", *headers]) + "\n")
        archive.writestr(f"{stem}.dist-info/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
        archive.writestr(f"{stem}.dist-info/RECORD", "")
    return path
