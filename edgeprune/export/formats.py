"""The formats a model can be exported to, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from torch import Tensor

from edgeprune.errors import ExportError
from edgeprune.export.source import Source


@dataclass(frozen=True)
class Format:
    """One exporter.

    ``suffix``: of the file, with its dot. ``write(source)``: the file's bytes; the same model gives the same bytes.
    ``run(path, inputs)``: the file's outputs on this machine, in the order of the PyTorch model's. ``tolerance``: largest error allowed,
    as a fraction of an output's largest magnitude. ``external``: the work is done by another process, so it can overlap this one's.
    """

    name: str
    suffix: str
    write: Callable[[Source], bytes]
    run: Callable[[Path, tuple[Tensor, ...]], list[Tensor]]
    tolerance: float = 1e-3
    external: bool = False


_FORMATS: Final[dict[str, Format]] = {}


def register(entry: Format) -> Format:
    """Add a format.  Raises :class:`ExportError` when its name is taken."""
    if entry.name in _FORMATS:
        raise ExportError(f"the export format {entry.name!r} is registered twice")
    _FORMATS[entry.name] = entry
    return entry


def names() -> list[str]:
    """The names of all formats, sorted."""
    return sorted(_FORMATS)


def find(name: str) -> Format:
    """The format called ``name``.  Raises :class:`ExportError` that lists the known ones."""
    if name not in _FORMATS:
        raise ExportError(f"unknown export format {name!r}", remedy=f"Known formats: {', '.join(names())}.")
    return _FORMATS[name]


def find_all(wanted: Sequence[str]) -> list[Format]:
    """The formats of these names, each once, in order.  Raises :class:`ExportError` on an unknown name or an empty list."""
    if isinstance(wanted, str):
        wanted = [wanted]
    if not wanted:
        raise ExportError("no export format is given", remedy=f"Known formats: {', '.join(names())}.")
    return [find(name) for name in dict.fromkeys(wanted)]
