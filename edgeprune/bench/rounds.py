"""One measurement from the rounds of a comparison that a device was asked for one at a time (``BenchOptions.only_round``)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import reduce

from edgeprune.bench.advice import NOT_SETTLED
from edgeprune.bench.results import Measurement

_ENERGY = ("energy_mj", "energy_low_mj", "energy_high_mj", "energy_method", "energy_error")


def joined(rounds: Sequence[Measurement], relative_width: float, stop_reason: str) -> Measurement:
    """What all rounds of one model on one device say, in their order.

    Whether the median settled (to ``relative_width``) is a question about all samples, not about a round's. Energy is what the first
    round measured. Warnings that differ in their numbers alone are one.
    """
    first, found = rounds[0], reduce(Measurement.together, rounds)
    stable = found.high_ms - found.low_ms <= relative_width * found.latency_ms
    said = {re.sub(r"[\d.]+", "#", text): text for one in rounds for text in one.warnings if text != NOT_SETTLED}
    return replace(
        found,
        **{name: getattr(first, name) for name in _ENERGY},
        stable=stable,
        stop_reason=stop_reason,
        warnings=tuple(said.values()) or (() if stable else (NOT_SETTLED,)),
        warmup_s=_total([one.warmup_s for one in rounds]),
        sampled_s=_total([one.sampled_s for one in rounds]),
        discarded=sum(one.discarded for one in rounds),
        cooldown_s=sum(one.cooldown_s for one in rounds),
        throttled=tuple(dict.fromkeys(cause for one in rounds for cause in one.throttled)),
        unreliable=any(one.unreliable for one in rounds),
    )


def _total(seconds: Sequence[float | None]) -> float | None:
    known = [one for one in seconds if one is not None]
    return sum(known) if known else None
