"""The formats a model can be exported to, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from edgeprune.cost.kernels import KernelSpec
from edgeprune.engines import FORMATS, FileFormat
from edgeprune.errors import ExportError, suggest
from edgeprune.export.calibration import SAMPLES, calibration_of
from edgeprune.export.source import Source
from edgeprune.task import Task

Loaded = Callable[[tuple[Tensor, ...]], list[Tensor]]
"""An exported file in memory: its outputs, in the order of the PyTorch model's, for one inference's inputs as that takes them."""


KernelBuilder = Callable[[KernelSpec, int, int], bytes]
"""The bytes of a file of one kernel, from its spec, input width and output width."""

Parts = tuple[dict[str, int], int]
"""Bytes of constants by layer, and of metadata."""


def _nothing(path: Path) -> None:
    return None


@dataclass(frozen=True)
class Format:
    """One exporter.

    ``kind``: its name, suffix and precision. ``write(source)``: the file's bytes; the same model gives the same bytes. ``load(path)``: the
    file, ready to run on this machine. ``tolerance``: largest error allowed,
    as a fraction of an output's largest magnitude. ``verify(source, loaded)``: for formats that compute something else on purpose,
    how far that may be from the PyTorch model; raises :class:`ParityError`. ``external``: the work is done by another process, so
    it can overlap this one's. ``calibrated``: it needs calibration data. ``extra``: what its packages are installed by. ``dtypes``: the
    real types that it is sure to hold. ``metadata(path)``: what a file says about itself, as JSON; ``parts(path)``: what its bytes are
    spent on; both None where the format does not say. ``kernel(spec, in_width, out_width)``: the file of a single kernel, for engines
    whose kernels can be timed one by one. ``options``: the export options that change its files.
    """

    kind: FileFormat
    write: Callable[[Source], bytes]
    load: Callable[[Path], Loaded]
    tolerance: float = 1e-3
    verify: Callable[[Source, Loaded], None] | None = None
    external: bool = False
    calibrated: bool = False
    extra: str | None = None
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.float16)
    metadata: Callable[[Path], bytes | None] = _nothing
    parts: Callable[[Path], Parts | None] = _nothing
    kernel: KernelBuilder | None = None
    options: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What users call it."""
        return self.kind.name

    @property
    def suffix(self) -> str:
        """Of its files, with all dots."""
        return self.kind.suffix

    @property
    def engine(self) -> str | None:
        """What runs it on a device; None when nothing does."""
        return self.kind.engine

    @property
    def compared(self) -> bool:
        """Whether it is compared on real data where there is some."""
        return self.calibrated or self.verify is not None

    def run(self, path: Path, inputs: tuple[Tensor, ...]) -> list[Tensor]:
        """The file's outputs for one inference."""
        return self.load(path)(inputs)


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


def known() -> list[Format]:
    """All formats, in the order of :data:`edgeprune.engines.FORMATS`."""
    return [_FORMATS[name] for name in FORMATS if name in _FORMATS]


def kernel_builders() -> dict[str, KernelBuilder]:
    """What writes the file of a single kernel, by the engine that runs it; the engine that suits devices best first."""
    return {entry.engine: entry.kernel for entry in known() if entry.kernel is not None and entry.engine is not None}


def find(name: str) -> Format:
    """The format called ``name``.  Raises :class:`ExportError` that lists the known ones."""
    if name not in _FORMATS:
        raise ExportError(f"unknown export format {name!r}", remedy=suggest(name, names(), "formats"))
    return _FORMATS[name]


def of_path(path: Path) -> Format:
    """The format of a file, by the longest suffix that fits.  Raises :class:`ExportError` that lists the known ones."""
    fitting = [entry for entry in _FORMATS.values() if path.name.endswith(entry.suffix)]
    if not fitting:
        raise ExportError(
            f"{path} is of an unknown kind", remedy=suggest(path.suffix, [entry.suffix for entry in _FORMATS.values()], "suffixes")
        )
    return max(fitting, key=lambda entry: len(entry.suffix))


def find_all(wanted: Sequence[str]) -> list[Format]:
    """The formats of these names, each once, in order.  Raises :class:`ExportError` on an unknown name or an empty list."""
    if isinstance(wanted, str):
        wanted = [wanted]
    if not wanted:
        raise ExportError("no export format is given", remedy=f"Known formats: {', '.join(names())}.")
    return [find(name) for name in dict.fromkeys(wanted)]


def calibration_for(task: Task, formats: Iterable[Format], count: int = SAMPLES) -> list[tuple[Tensor, ...]] | None:
    """:func:`calibration_of` where one of ``formats`` needs it, or is compared on real data and the task has some; else None."""
    data = task.train is not None or task.validation is not None
    needed = any(entry.calibrated or (entry.compared and data) for entry in formats)
    return calibration_of(task, count) if needed else None
