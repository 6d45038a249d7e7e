"""The cost models of one model on one device, and the program solved over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgeprune.budget import COUNTED, format_quantity
from edgeprune.cost.choices import width_choices
from edgeprune.cost.counts import Term, counts, total
from edgeprune.cost.energy import EnergyModel
from edgeprune.cost.kernels import kernels
from edgeprune.cost.latency import KernelTimes, LatencyModel
from edgeprune.cost.memory import memory_model
from edgeprune.cost.weights import FLOAT32, Storage
from edgeprune.cost.width import Widths
from edgeprune.errors import InfeasibleBudgetError
from edgeprune.graph import Analysis
from edgeprune.search.plan.metrics import ModelMetrics
from edgeprune.search.plan.program import Program

ROUNDS, NEAR, GAIN = 6, 0.985, 0.01
"""How often the program is solved for one plan, how near to its tightest limit a plan may stop, and the share of the loss that the last
solution may have gained."""

UNIFORM_STEPS = 7
"""How finely the share is found that every group may keep."""


class Planner:
    """Predicts plans and finds the best one under limits.  ``times``: a device table or a profile's prior; ``storage``: how its runtime
    stores a model."""

    def __init__(
        self,
        analysis: Analysis,
        times: KernelTimes,
        choices: Mapping[str, Sequence[int]],
        power: tuple[float, float, float],
        storage: Storage = FLOAT32,
    ) -> None:
        self.analysis, self.choices = analysis, {name: list(widths) for name, widths in choices.items()}
        self.kernels = kernels(analysis)
        self.latency = LatencyModel(self.kernels, times)
        self.counts = counts(analysis, self.kernels)
        self.storage, self.memory = storage, memory_model(self.kernels, storage)
        self.energy = EnergyModel(self.kernels, *power)
        self.file_offset = 0.0
        self.measured_dense: tuple[float, float | None] | None = None  # latency (ms) and peak (bytes)
        self.dense = {group.name: group.size for group in analysis.groups}

    def predict(self, widths: Widths) -> ModelMetrics:
        """All figures of a plan."""
        latency = self.latency.predict(widths)
        return ModelMetrics(
            latency,
            self.memory.predict(widths, self._resident_bytes(widths)),
            self.energy.predict(widths, latency),
            self.file_offset + self._file_bytes(widths),
            round(total(self.counts.macs, widths)),
            round(total(self.counts.parameters, widths)),
        )

    @property
    def narrowest(self) -> dict[str, int]:
        """The widths of the plan that keeps least."""
        return {name: choices[0] for name, choices in self.choices.items()}

    def narrow_to(self, widths: Widths) -> None:
        """From now on take no width above that of ``widths``."""
        self.choices = {name: [choice for choice in choices if choice <= widths[name]] for name, choices in self.choices.items()}

    def _file_bytes(self, widths: Widths) -> float:
        return self.storage.total_file_bytes(self.kernels, widths) + self.storage.weight * total(self.counts.loose, widths)

    def _resident_bytes(self, widths: Widths) -> float:
        loose = self.storage.resident_weight * total(self.counts.loose, widths)
        return self.storage.total_resident_bytes(self.kernels, widths) + loose

    def observe_file(self, file_bytes: float) -> None:
        """Take in the size of the dense model's file."""
        self.file_offset = file_bytes - self._file_bytes(self.dense)

    def observe_dense(self, latency_ms: float, peak_bytes: float | None, file_bytes: float, energy_mj: float | None) -> None:
        """Take in the dense model's measurement: every model starts from what is true there."""
        self.measured_dense = latency_ms, peak_bytes
        self.latency.calibrate([(self.dense, latency_ms)])
        self.observe_file(file_bytes)
        if peak_bytes is not None:
            self.memory.calibrate([(self.dense, self._resident_bytes(self.dense), peak_bytes)])
        if energy_mj is not None:
            self.energy.calibrate(self.predict(self.dense).energy_mj, energy_mj)

    def observe(self, observed: Sequence[tuple[Widths, float, float | None]]) -> None:
        """Refit latency and memory to all (widths, latency ms, peak bytes) measured so far, the dense model first."""
        self.latency.calibrate([(widths, latency) for widths, latency, _ in observed])
        peaks = [(widths, self._resident_bytes(widths), peak) for widths, _, peak in observed if peak is not None]
        if peaks:
            self.memory.calibrate(peaks)

    def solve(self, curves: Mapping[str, Sequence[float]], limits: Mapping[str, float]) -> dict[str, int]:
        """The widths of the largest objective whose prediction meets ``limits`` (by kind, in ms, bytes, mJ).

        ``curves``: for every group what is kept at each of its choices. The program is solved about the uniform plan within the limits.
        Where costs are affine fits, as those of a width of several groups, it is solved again about the plan found, with its limits
        corrected by the prediction of that plan, while that gains. Raises :class:`InfeasibleBudgetError` naming what binds and the least
        reachable.
        """
        narrowest = self.refuse_impossible(limits)
        about, inside = self._uniform(limits), dict(limits)
        best, most, whole = about, self.objective_of(curves, about), sum(map(max, curves.values()))
        for _ in range(ROUNDS):
            program = self._program(curves, inside, about)
            widths = program.solve() or narrowest
            prediction = self.predict(widths)
            shares = {kind: prediction.predicted(kind) / limit for kind, limit in limits.items()}
            value, fits = self.objective_of(curves, widths), max(shares.values(), default=0.0) <= 1.0
            settled = value <= most + GAIN * (whole - most) and max(shares.values(), default=1.0) >= NEAR
            if fits and value >= most:
                best, most = widths, value
            if fits and (program.exact or settled):
                break
            tightest = max(shares, key=lambda kind: shares[kind]) if shares else None
            for kind, share in shares.items():
                if share > 1.0 or (kind == tightest and share < NEAR):
                    inside[kind] /= min(max(share, 0.9), 1.1)
            about = widths
        return best

    def _uniform(self, limits: Mapping[str, float]) -> dict[str, int]:
        """The widest plan within ``limits`` of those where every group keeps about the same share and no block goes; the narrowest if
        there is no other."""
        best, low, high = self.narrowest, 0.0, 1.0
        whole_blocks = {name: [width for width in choices if width] or choices for name, choices in self.choices.items()}
        for _ in range(UNIFORM_STEPS):
            share = (low + high) / 2
            plan = {name: _nearest(choices, share * choices[-1]) for name, choices in whole_blocks.items()}
            prediction = self.predict(plan)
            if all(prediction.predicted(kind) <= limit for kind, limit in limits.items()):
                best, low = plan, share
            else:
                high = share
        return best

    def objective_of(self, curves: Mapping[str, Sequence[float]], widths: Widths) -> float:
        """What a plan keeps."""
        return sum(curves[name][choices.index(widths[name])] for name, choices in self.choices.items())

    def _program(self, curves: Mapping[str, Sequence[float]], limits: Mapping[str, float], about: Widths) -> Program:
        program = Program(self.choices, curves, about, [block.groups for block in self.analysis.blocks])
        latency = program.total(self.kernels, self.latency.kernel_ms)
        latency.constant += self.latency.overhead_ms
        if "latency" in limits:
            program.limit(latency, limits["latency"])
        if "size" in limits:
            size = program.total(self.kernels, self.storage.file_bytes)
            size.plus(program.total(self.counts.loose, Term.at), self.storage.weight)
            program.limit(size, limits["size"] - self.file_offset)
        if "macs" in limits:
            program.limit(program.total(self.counts.macs, Term.at), limits["macs"])
        if "parameters" in limits:
            program.limit(program.total(self.counts.parameters, Term.at), limits["parameters"])
        if "energy" in limits:
            energy = program.total(
                self.kernels, lambda kernel, in_width, out_width: self.energy.kernel_mj(kernel, in_width, out_width, 0.0)
            )
            program.limit(energy.plus(latency, self.energy.scale * self.energy.active_w), limits["energy"])
        if "memory" in limits:
            held = program.total(self.kernels, self.storage.resident_bytes)
            resident = program.shared(held.plus(program.total(self.counts.loose, Term.at), self.storage.resident_weight))
            for step in self.memory.steps:
                peak = program.width(step.scaled(self.storage.activation * self.memory.scale)).plus(resident, self.memory.weight_copies)
                program.limit(peak, limits["memory"] - self.memory.offset_bytes)
        return program

    def refuse_impossible(self, limits: Mapping[str, float]) -> dict[str, int]:
        """The narrowest plan; :class:`InfeasibleBudgetError` naming what binds and the least reachable when it is over ``limits``."""
        narrowest = self.narrowest
        least = self.predict(narrowest)
        missed = [
            f"{kind} {format_quantity(kind, limit)} cannot be reached: the least is {format_quantity(kind, least.predicted(kind))}"
            f"{'' if kind in COUNTED else ' as predicted'}, every group at its narrowest (width {min(narrowest.values())}); binding: {kind}"
            for kind, limit in limits.items()
            if least.predicted(kind) > limit
        ]
        if missed:
            share = max(least.predicted(kind) / limit for kind, limit in limits.items())
            raise InfeasibleBudgetError(
                "; ".join(missed), remedy="Relax that budget, choose a smaller model or a faster device.", share=share
            )
        return narrowest


def _nearest(choices: Sequence[int], width: float) -> int:
    return min(choices, key=lambda choice: abs(choice - width))


def all_choices(analysis: Analysis, step: int) -> dict[str, list[int]]:
    """The widths every group may take on a device whose kernels work in blocks of ``step`` channels; 0 where its block may go whole."""
    return {group.name: [0] * (group.name in analysis.block_of) + width_choices(group, step) for group in analysis.groups}
