"""The result of a finished run, as values: the ``result`` of its ``run.json``, for reports, releases, fronts and the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgeprune.budget import FIGURES
from edgeprune.decode import JsonObject, convert
from edgeprune.errors import RunError
from edgeprune.runs.document import read_document
from edgeprune.verdict import Verdict

SCHEMA_VERSION = 1
"""Raised when fields change their meaning.  New fields with a default do not raise it: older readers leave them out."""


@dataclass(frozen=True)
class ModelSummary:
    """The figures of one model; None where one is not known.  ``metric_error``: its standard error. ``low_ms``..``high_ms``: the interval
    of ``latency_ms``, a median.
    ``energy_method``: the meter, or how the energy was modelled; ``energy_measured``: which of the two, None where it was not recorded."""

    metric: float | None = None
    metric_error: float | None = None
    latency_ms: float | None = None
    low_ms: float | None = None
    high_ms: float | None = None
    peak_bytes: float | None = None
    energy_mj: float | None = None
    energy_method: str | None = None
    file_bytes: float | None = None
    macs: float | None = None
    parameters: float | None = None
    energy_measured: bool | None = None

    @property
    def energy_modelled(self) -> bool:
        """Whether the energy is a model's.  Up to version 0.2.0, only the method said so."""
        if self.energy_measured is None:
            return self.energy_method is None or self.energy_method.startswith("no meter")
        return not self.energy_measured

    def of(self, kind: str) -> float | None:
        """The figure that a budget of ``kind`` limits."""
        value: float | None = getattr(self, FIGURES[kind])
        return value


@dataclass(frozen=True)
class RatioSummary:
    """The pruned model's latency over the dense one's, measured in turns, with its interval."""

    value: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class JudgedSummary:
    """What was compared with ``limit``: ``value`` with its interval, in the kind's unit, or where ``relative`` as shares of the dense
    model's latency."""

    value: float
    low: float
    high: float
    limit: float
    relative: bool = False


@dataclass(frozen=True)
class BudgetSummary:
    """One limit: ``text`` as the user wrote it, ``limit`` in the kind's unit; ``verdict``: where it was judged."""

    text: str | None = None
    limit: float | None = None
    judged: JudgedSummary | None = None
    verdict: Verdict | None = None
    met: bool | None = None


@dataclass(frozen=True)
class ArtifactSummary:
    """An exported file, relative to the run's ``artifacts``.  ``written_at``: UTC.  ``record_sha256``: of the record of its measurement,
    where it was measured."""

    file: str
    bytes: int
    sha256: str
    written_at: str
    record_sha256: str | None = None


@dataclass(frozen=True)
class BatterySummary:
    """A battery of ``capacity_mwh``, and how often a day an inference is made. ``source``: where the capacity is from."""

    capacity_mwh: float
    inferences_per_day: float
    source: str

    def share_of_a_day(self, energy_mj: float) -> float:
        """What a day's inferences of ``energy_mj`` each take of it, as a share; nothing else that the device does counts."""
        return energy_mj * self.inferences_per_day / (3600.0 * self.capacity_mwh)


@dataclass(frozen=True)
class InputSummary:
    """An input of the model."""

    shape: list[int]
    dtype: str


@dataclass(frozen=True)
class GroupSummary:
    """How many of a group's channels the plan keeps."""

    name: str
    kept: int
    total: int


@dataclass(frozen=True)
class CandidateSummary:
    """A model built and measured on the way.  ``ratio``: of its latency to the dense model's. ``board``: which of several devices measured
    it."""

    predicted_ms: float | None = None
    measured_ms: float | None = None
    low_ms: float | None = None
    high_ms: float | None = None
    ratio: float | None = None
    board: str | None = None


@dataclass(frozen=True)
class ObjectiveSummary:
    """An objective whose plan was cut, reconstructed and compared in ``stage`` of the run.  ``divergence``: of its answers from the dense
    model's. ``latency_ms``: predicted. ``chosen``: it was followed. ``raced``: the divergence after a short training,
    where there was one."""

    stage: int
    name: str
    divergence: float
    latency_ms: float
    chosen: bool
    raced: float | None = None


@dataclass(frozen=True)
class LayerSummary:
    """An operation of the runtime before and after the cut: channels in and out, elements of its weight, multiply-accumulates, and
    milliseconds as the cost model has them.  ``name``: the module that computes it. All figures after are 0 where its block is gone."""

    name: str
    kind: str
    inputs: tuple[int, int]
    outputs: tuple[int, int]
    weights: tuple[int, int]
    macs: tuple[int, int]
    latency_ms: tuple[float, float]


@dataclass(frozen=True)
class SessionSummary:
    """The state of the device about a measurement of ``name``.  ``temperature_c``: of the hottest zone, ``clock_mhz``: of all cores, before
    and after; None where the device does not report it. ``throttled``: what held it back."""

    name: str
    temperature_c: tuple[float | None, float | None] = (None, None)
    clock_mhz: tuple[float | None, float | None] = (None, None)
    load: tuple[float | None, float | None] = (None, None)
    throttled: list[str] = field(default_factory=list)
    samples: int = 0


@dataclass(frozen=True)
class EpochSummary:
    """An epoch of the tuning; epoch 0 is before it."""

    epoch: float
    step: float | None = None
    loss: float | None = None
    learning_rate: float | None = None
    score: float | None = None


@dataclass(frozen=True)
class RunSummary:
    """All that is shown of a run.  Every field has a default: what an older version did not keep is not known.

    ``measured``: whether latencies come from a device; ``measured_kinds``, ``methods``: where some figures are measured and others are
    not, the kinds of limit that are, and by kind where a figure comes from. ``device``, ``versions``: facts by name. ``seconds``:
    ``total``, and of it ``export``, of the last call that worked on the run. ``warnings``: sentences. ``layers_measured``: whether the
    times of ``layers`` come from single operations measured on the device. ``samples``: by model the 0th to 100th percentile of its
    latencies in milliseconds. ``origin``: how the run came about, by name: its command, recipe, seed.
    """

    schema_version: int = SCHEMA_VERSION
    task: str | None = None
    target: str | None = None
    created: str | None = None
    labels: list[str] = field(default_factory=list)
    preprocessing: JsonObject = field(default_factory=dict)
    inputs: list[InputSummary] = field(default_factory=list)
    artifacts: dict[str, ArtifactSummary] | None = None
    measured: bool = False
    measured_kinds: list[str] | None = None
    methods: dict[str, str] | None = None
    metric_name: str | None = None
    metric_unit: str = ""
    metric_error_method: str | None = None
    higher_is_better: bool = True
    dense: ModelSummary = ModelSummary()
    pruned: ModelSummary = ModelSummary()
    ratio: RatioSummary | None = None
    budget: dict[str, BudgetSummary] = field(default_factory=dict)
    device: dict[str, str | float | None] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    precision: str | None = None
    groups: list[GroupSummary] = field(default_factory=list)
    objectives: list[ObjectiveSummary] = field(default_factory=list)
    candidates: list[CandidateSummary] = field(default_factory=list)
    final_prediction_ms: float | None = None
    device_measurements: int = 0
    reused_measurements: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    history: list[EpochSummary] = field(default_factory=list)
    surgery: dict[str, str | float] = field(default_factory=dict)
    unsupported: list[dict[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    battery: BatterySummary | None = None
    layers: list[LayerSummary] = field(default_factory=list)
    layers_measured: bool = False
    samples: dict[str, list[float]] = field(default_factory=dict)
    sessions: list[SessionSummary] = field(default_factory=list)
    origin: dict[str, str] = field(default_factory=dict)

    @property
    def missed(self) -> list[str]:
        """The kinds of limit that are not found to be met."""
        return [kind for kind, item in self.budget.items() if item.met is not True]

    @property
    def loss(self) -> float | None:
        """The pruned model's metric turned so that less is better; None without one."""
        found = self.pruned.metric
        return None if found is None else -found if self.higher_is_better else found

    def to_json(self) -> JsonObject:
        """In JSON's types: the ``result`` of ``run.json``."""
        return asdict(self)

    @classmethod
    def of(cls, values: RunSummary | Mapping[str, Any]) -> RunSummary:
        """From what :meth:`to_json` gave; fields of None are not known, and fields that this version does not know are left out.

        Raises :class:`RunError` for a later schema, and for a field of the wrong type, which it names.
        """
        if isinstance(values, RunSummary):
            return values
        if isinstance(version := values.get("schema_version"), int) and version > SCHEMA_VERSION:
            raise RunError(f"the run's summary has schema {version}, and this edgeprune knows {SCHEMA_VERSION}", remedy="Update edgeprune.")
        known = {name: value for name, value in values.items() if value is not None}
        try:
            return convert(known, cls, finite=False)
        except ValueError as error:
            raise RunError(f"the run's summary is damaged: {error}", remedy="Restore run.json, or run again.") from error


def read_summary(folder: Path) -> RunSummary | None:
    """The summary of the run in ``folder``; None when it is not finished, or the folder holds no run.  Raises :class:`RunError`."""
    result = (read_document(folder) or {}).get("result")
    return None if result is None else RunSummary.of(result)
