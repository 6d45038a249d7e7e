"""A plan made real."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from edgeprune.search.measure.paired import PairedMeasurement
from edgeprune.search.plan.metrics import ModelMetrics
from edgeprune.surgery import Plan, Pruned
from edgeprune.tuning import TuneResult


@dataclass
class PrunedCandidate:
    """The pruned model, what tuning did, its files and its trial on the device (None when there is no device)."""

    pruned: Pruned
    predicted: ModelMetrics
    figures: ModelMetrics
    trial: PairedMeasurement | None
    tuned: TuneResult | None
    files: dict[str, Path]
    identity: str


def digest(plan: Plan) -> str:
    """A short name that no other plan has."""
    return sha256(plan.to_json().encode()).hexdigest()[:12]
