"""A release as a folder, the same as devices have it: for what is built into a program (a phone's assets, firmware)."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgeprune.decode import JsonObject, convert
from edgeprune.errors import InputError
from edgeprune.files import parse_json
from edgeprune.release.bundle.file import Bundle
from edgeprune.release.deploy.push import contents_of

ABOUT: Final = "release.json"
SUMS: Final = "SHA256SUMS"


def unpack(bundle: Bundle, variant: str | None, folder: Path) -> Path:
    """Write the files of a verified bundle's variant (the only one unless named) into ``folder``, whole or not at all; the folder.

    Beside the files are ``release.json`` (what the release is, and which file is its model) and ``SHA256SUMS``.  A folder that an earlier
    release was unpacked into is replaced.  Raises :class:`BundleError` for an unknown variant or a damaged bundle, :class:`InputError` when
    the folder has something else in it or cannot be written.
    """
    names = list(bundle.manifest.variants)
    if variant is None and len(names) > 1:
        raise InputError(f"{bundle.path} has several variants: {', '.join(names)}", remedy="Say which: --variant NAME")
    contents, about = contents_of(bundle, variant or names[0])
    folder = folder.resolve()  # of ".", a name; of a link, the folder that it leads to
    if strange := _strange(folder):
        raise InputError(f"{folder} holds {strange}, which is not part of a release", remedy="Name another folder, or remove it.")
    new = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        for name, entry in about["files"].items():
            path = new / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(contents[entry["sha256"]]())
        sums = (f"{entry['sha256']}  {name}\n" for name, entry in sorted(about["files"].items()))
        (new / SUMS).write_text("".join(sums), encoding="ascii")
        (new / ABOUT).write_text(json.dumps(about, indent=1, sort_keys=True) + "\n", encoding="ascii")
        if folder.exists():
            shutil.rmtree(folder)
        os.rename(new, folder)
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written: {error.strerror}", remedy="Free some space there, or name another folder."
        ) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return folder


@dataclass(frozen=True)
class _Unpacked:
    """What was unpacked, by path."""

    files: dict[str, JsonObject]


def _strange(folder: Path) -> str | None:
    """What there is at a path that no release was unpacked into; None when it may be replaced."""
    if not folder.exists():
        return None
    if not folder.is_dir():
        return "a file"
    try:
        known = {ABOUT, SUMS, *convert(parse_json((folder / ABOUT).read_bytes()), _Unpacked).files}
    except (OSError, ValueError):
        known = set()
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return next((name for name in found if name not in known), None)
