"""A recipe's folder on its way to the nodes of a cluster."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from edgeprune.errors import RecipeError

MOST_BYTES: Final = 100_000_000
"""More than this is data, which every node has of its own."""

_REMEDY = (
    "Give the recipe a folder of its own, with nothing in it but what it imports. "
    "Data are not sent: every node has its own, under the same path."
)


def zipped(folder: Path, target: Path) -> Path:
    """``target``, a ZIP of what is in ``folder``, without hidden files, caches and finished runs.

    Raises :class:`RecipeError` when that is too large, with its size and what is largest, or cannot be read.
    """
    files, sizes = [], dict[str, int]()
    try:
        for path in _files(folder):
            files.append(path)
            top = path.relative_to(folder).parts[0]
            sizes[top] = sizes.get(top, 0) + path.stat().st_size
        if (total := sum(sizes.values())) > MOST_BYTES:
            largest = max(sizes, key=sizes.__getitem__)
            raise RecipeError(
                f"the recipe's folder {folder} is too large to be sent to other machines: {total / 1e6:.0f} MB, of which {largest} has "
                f"{sizes[largest] / 1e6:.0f} MB; at most {MOST_BYTES / 1e6:.0f} MB",
                remedy=_REMEDY,
            )
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in files:
                archive.write(path, path.relative_to(folder))
    except OSError as error:
        raise RecipeError(f"the recipe's folder {folder} cannot be sent to other machines: {error}", remedy=_REMEDY) from error
    return target


def _files(folder: Path) -> Iterator[Path]:
    def fails(error: OSError) -> None:
        raise error

    for place, folders, names in os.walk(folder, onerror=fails):
        folders[:] = sorted(name for name in folders if not _left_out(Path(place, name)))
        yield from (Path(place, name) for name in sorted(names) if not name.startswith(".") and not name.endswith(".pyc"))


def _left_out(folder: Path) -> bool:
    return folder.name.startswith(".") or folder.name == "__pycache__" or (folder / "run.json").exists()
