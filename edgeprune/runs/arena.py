"""What TFLite Micro's interpreter says of a file, as a measurement."""

from __future__ import annotations

import math

from edgeprune.bench import Measurement
from edgeprune.micro import Arena
from edgeprune.profile import MICRO


def arena_measurement(
    arena: Arena, *, name: str, file_bytes: int, file_sha256: str, device: str, latency_ms: float = math.nan
) -> Measurement:
    """The least arena as the peak of memory.  ``latency_ms``: as predicted; NaN where it is not known, as no time is measured."""
    return Measurement(
        name=name,
        latency_ms=latency_ms,
        low_ms=latency_ms,
        high_ms=latency_ms,
        p90_ms=latency_ms,
        p99_ms=latency_ms,
        load_ms=math.nan,
        first_ms=math.nan,
        samples_ns=(),
        peak_bytes=arena.needed_bytes,
        rss_peak_bytes=arena.needed_bytes,
        arena_bytes=arena.used_bytes,
        file_bytes=file_bytes,
        file_sha256=file_sha256,
        energy_mj=None,
        energy_method=None,
        runtime=MICRO,
        runtime_version=arena.version,
        threads=1,
        device=device,
        stop_reason="arena",
        stable=True,
    )
