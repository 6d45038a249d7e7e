"""The cost models of one model on one device, and the program solved over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgeprune.budget import format_quantity
from edgeprune.cost.choices import width_choices
from edgeprune.cost.energy import EnergyModel
from edgeprune.cost.kernels import kernels
from edgeprune.cost.latency import KernelTimes, LatencyModel
from edgeprune.cost.memory import FLOAT, memory_model
from edgeprune.cost.weights import kernel_parameters, parameters
from edgeprune.cost.width import Widths
from edgeprune.errors import InfeasibleBudgetError
from edgeprune.graph import Analysis
from edgeprune.search.program import Program


@dataclass(frozen=True)
class Prediction:
    """What the models say of one plan: latency (ms), peak memory (bytes), energy (mJ), file size (bytes), MACs, parameters."""

    latency_ms: float
    peak_bytes: float
    energy_mj: float
    file_bytes: float
    macs: float
    parameters: float

    def of(self, kind: str) -> float:
        """The figure that a budget of ``kind`` limits."""
        return {"latency": self.latency_ms, "memory": self.peak_bytes, "energy": self.energy_mj, "size": self.file_bytes}[kind]


class Planner:
    """Predicts plans and finds the best one under limits.  ``times``: a device table or a profile's prior."""

    def __init__(
        self, analysis: Analysis, times: KernelTimes, choices: Mapping[str, Sequence[int]], power: tuple[float, float, float]
    ) -> None:
        self.analysis, self.choices = analysis, {name: list(widths) for name, widths in choices.items()}
        self.kernels = kernels(analysis)
        self.latency = LatencyModel(self.kernels, times)
        self.memory = memory_model(self.kernels)
        self.energy = EnergyModel(self.kernels, *power)
        self.file_offset = 0.0
        self.dense = {group.name: group.size for group in analysis.groups}

    def predict(self, widths: Widths) -> Prediction:
        """All figures of a plan."""
        weights = parameters(self.kernels, widths)
        latency = self.latency.predict(widths)
        return Prediction(
            latency,
            self.memory.predict(widths, FLOAT * weights),
            self.energy.predict(widths, latency),
            self.file_offset + FLOAT * weights,
            sum(kernel.macs(widths) for kernel in self.kernels),
            weights,
        )

    def observe_dense(self, latency_ms: float, peak_bytes: float | None, file_bytes: float, energy_mj: float | None) -> None:
        """Take in the dense model's measurement: every model starts from what is true there."""
        self.latency.calibrate([(self.dense, latency_ms)])
        weights = FLOAT * parameters(self.kernels, self.dense)
        self.file_offset = file_bytes - weights
        if peak_bytes is not None:
            self.memory.calibrate([(self.dense, weights, peak_bytes)])
        if energy_mj is not None:
            self.energy.calibrate(self.predict(self.dense).energy_mj, energy_mj)

    def observe(self, observed: Sequence[tuple[Widths, float, float | None]]) -> None:
        """Refit latency and memory to all (widths, latency ms, peak bytes) measured so far, the dense model first."""
        self.latency.calibrate([(widths, latency) for widths, latency, _ in observed])
        peaks = [(widths, FLOAT * parameters(self.kernels, widths), peak) for widths, _, peak in observed if peak is not None]
        if peaks:
            self.memory.calibrate(peaks)

    def solve(self, value: Mapping[str, Sequence[float]], limits: Mapping[str, float], rounds: int = 2) -> dict[str, int]:
        """The widths of most value under ``limits`` (by kind, in ms, bytes, mJ).

        ``value``: for every group the value kept at each of its choices. Solved ``rounds`` times, each about the plan before, since affine
        parts of the cost are fitted near a plan. Raises :class:`InfeasibleBudgetError` naming what binds and the least reachable.
        """
        self._refuse_impossible(limits)
        about: Widths = {name: choices[-1] for name, choices in self.choices.items()}
        widths: dict[str, int] | None = None
        for _ in range(rounds + 3):
            found = self._program(value, limits, about).solve()
            if found is None:
                found = {name: choices[0] for name, choices in self.choices.items()} if widths is None else widths
            if found == widths:
                break
            widths, about = found, found
            rounds -= 1
            if rounds <= 0 and self._within(widths, limits):
                break
        assert widths is not None
        return widths

    def _within(self, widths: Widths, limits: Mapping[str, float]) -> bool:
        prediction = self.predict(widths)
        return all(prediction.of(kind) <= 1.005 * limit for kind, limit in limits.items())

    def _program(self, value: Mapping[str, Sequence[float]], limits: Mapping[str, float], about: Widths) -> Program:
        program = Program(self.choices, value, about)
        latency = program.total(self.kernels, self.latency.kernel_ms)
        latency.constant += self.latency.overhead_ms
        weights = program.total(self.kernels, lambda kernel, source, result: FLOAT * kernel_parameters(kernel, source, result))
        if "latency" in limits:
            program.limit(latency, limits["latency"])
        if "size" in limits:
            program.limit(weights, limits["size"] - self.file_offset)
        if "energy" in limits:
            energy = program.total(self.kernels, lambda kernel, source, result: self.energy.kernel_mj(kernel, source, result, 0.0))
            program.limit(energy.plus(latency, self.energy.scale * self.energy.active_w), limits["energy"])
        if "memory" in limits:
            for step in self.memory.steps:
                peak = program.width(step.scaled(FLOAT * self.memory.scale)).plus(weights, self.memory.weight_copies)
                program.limit(peak, limits["memory"] - self.memory.offset_bytes)
        return program

    def _refuse_impossible(self, limits: Mapping[str, float]) -> None:
        narrowest = {name: choices[0] for name, choices in self.choices.items()}
        least = self.predict(narrowest)
        missed = [
            f"{kind} {format_quantity(kind, limit)} cannot be reached: the least is {format_quantity(kind, least.of(kind))}, "
            f"every group at its narrowest (width {min(narrowest.values())}); binding: {kind}"
            for kind, limit in limits.items()
            if least.of(kind) > limit
        ]
        if missed:
            raise InfeasibleBudgetError("; ".join(missed), remedy="Relax that budget, choose a smaller model or a faster device.")


def all_choices(analysis: Analysis, step: int) -> dict[str, list[int]]:
    """The widths every group may take on a device whose kernels work in blocks of ``step`` channels."""
    return {group.name: width_choices(group, step) for group in analysis.groups}
