"""Plans that any run measured on a device, kept for later runs on it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from platformdirs import user_cache_path
from torch import Tensor

from edgeprune.cost.width import Widths
from edgeprune.decode import JsonObject, convert
from edgeprune.errors import InputError
from edgeprune.export.cache import REVISION
from edgeprune.files import append_line, parse_json
from edgeprune.graph import Analysis
from edgeprune.search.measure.paired import PairedMeasurement

_log = logging.getLogger(__name__)

RECENT = 16
"""Earlier measurements that calibrate a new run's model."""


@dataclass(frozen=True)
class _Entry:
    widths: dict[str, int]
    trial: JsonObject  # the name in the file since its first version


class Archive:
    """By widths the measured pairs of models of one structure on one device, runtime and thread count.  What weights they had does not
    matter to a latency.  A damaged or unwritable file costs only what it would have saved."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: dict[str, tuple[dict[str, int], PairedMeasurement]] = {}
        try:
            lines = path.read_text(errors="replace").splitlines()
        except OSError:
            lines = []
        for number, line in enumerate(lines, 1):
            try:
                entry = convert(parse_json(line), _Entry)
                self._found[_key(entry.widths)] = entry.widths, PairedMeasurement.from_json(entry.trial)
            except (ValueError, InputError) as error:
                _log.warning("line %d of %s is skipped: %s", number, path, error)

    @classmethod
    def of(cls, device: str, threads: int, analysis: Analysis) -> Archive:
        """The one in the user's cache, of files exported as now.  ``device``: its key."""
        name = sha256(f"{REVISION} {device} {threads} {structure(analysis)}".encode()).hexdigest()[:24]
        return cls(user_cache_path("edgeprune") / "trials" / f"{name}.jsonl")

    def find(self, widths: Mapping[str, int]) -> PairedMeasurement | None:
        """What was measured of these widths."""
        known = self._found.get(_key(widths))
        return known[1] if known else None

    def usable(self, widths: Mapping[str, int], metered: bool, stop_at: float | None) -> PairedMeasurement | None:
        """:meth:`find`, but for what lacks the energy that is ``metered`` now, and for what fewer rounds told from another limit than
        ``stop_at`` (a ratio)."""
        known = self.find(widths)
        if known is None or (metered and known.model.energy_mj is None):
            return None
        doubtful = stop_at is not None and known.stopped_early and known.low <= stop_at <= known.high
        return None if doubtful else known

    def add(self, widths: Mapping[str, int], pair: PairedMeasurement) -> None:
        """Keep a measured pair for later runs."""
        self._found[_key(widths)] = dict(widths), pair
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            append_line(self._path, json.dumps({"widths": dict(widths), "trial": pair.to_json()}))
        except OSError:
            return

    def observed(self) -> list[tuple[Widths, float, float | None]]:
        """(widths, latency relative to the dense model's, peak bytes) of the latest."""
        return [(widths, pair.ratio, pair.model.peak_bytes) for widths, pair in list(self._found.values())[-RECENT:]]


def structure(analysis: Analysis) -> str:
    """All that a latency depends on but the widths: parameters, groups, every operation with its constants, shapes and types.  The same
    network on larger inputs, or with other strides, is another one."""
    graph = [f"{analysis.fingerprint} {analysis.captured.batch}"]
    for node in analysis.captured.module.graph.nodes:
        target = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
        value = node.meta.get("val")
        sizes = [size if isinstance(size, int) else "any" for size in value.shape] if isinstance(value, Tensor) else ""
        graph.append(f"{node.op} {target} {node.args} {node.kwargs} {sizes} {getattr(value, 'dtype', '')}")
    return sha256("\n".join(graph).encode()).hexdigest()


def _key(widths: Mapping[str, int]) -> str:
    return json.dumps(sorted(widths.items()))
