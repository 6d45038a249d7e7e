"""The program against brute force; the loop; run directories."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeprune.bench import Measurement
from edgeprune.budget import Budget
from edgeprune.cost.choices import width_choices
from edgeprune.cost.kernels import Kernel, kernels, macs
from edgeprune.errors import BudgetError, InfeasibleBudgetError, InputError, RunError
from edgeprune.graph import Analysis, analyze
from edgeprune.runs.directory import RunDirectory
from edgeprune.runs.document import read_inputs
from edgeprune.search.events import SILENT
from edgeprune.search.measure.paired import PairedMeasurement
from edgeprune.search.options import Options
from edgeprune.search.plan import solver
from edgeprune.search.plan.loop import Loop
from edgeprune.search.plan.metrics import ModelMetrics, resolved
from edgeprune.search.plan.planner import Planner, all_choices
from edgeprune.search.plan.program import saliency_curve
from edgeprune.testing.networks import OptionA

IMAGE = (torch.zeros(1, 3, 8, 8),)


class FakeTimes:
    """A staircase in the output width, linear in the input's."""

    measured = True
    call_ms = 0.0

    def milliseconds(self, kernel: Kernel, in_width: float, out_width: float) -> float:
        block = 4 * np.ceil(out_width / 4) if kernel.spec.kind == "conv2d" else out_width
        return 1e-3 + 2e-6 * macs(kernel.spec, in_width, block)


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return analyze(OptionA(), IMAGE)


@pytest.fixture
def planner(analysis: Analysis) -> Planner:
    choices = {group.name: width_choices(group, 2) for group in analysis.groups}
    return Planner(analysis, FakeTimes(), choices, (2.0, 5.0, 20.0))


def curves_of(planner: Planner, seed: int) -> dict[str, list[float]]:
    random = np.random.default_rng(seed)
    return {
        group.name: saliency_curve(random.random(group.rows.shape) ** 3, planner.choices[group.name]) for group in planner.analysis.groups
    }


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kinds", [("latency",), ("memory",), ("size",), ("energy",), ("latency", "memory", "energy", "size")])
def test_the_program_finds_what_brute_force_finds(planner: Planner, seed: int, kinds: tuple[str, ...]) -> None:
    curves, dense = curves_of(planner, seed), planner.predict(planner.dense)
    limits = {kind: (0.5 + 0.05 * seed) * dense.of(kind) for kind in kinds}
    widths = planner.solve(curves, limits)
    assert all(planner.predict(widths).of(kind) <= 1.005 * limit for kind, limit in limits.items())

    def value(plan: dict[str, int]) -> float:
        return sum(curves[name][planner.choices[name].index(width)] for name, width in plan.items())

    plans = (dict(zip(planner.choices, combination, strict=True)) for combination in itertools.product(*planner.choices.values()))
    best = max(value(plan) for plan in plans if all(planner.predict(plan).of(kind) <= limit for kind, limit in limits.items()))
    assert value(widths) >= 0.97 * best  # costs of two groups at once are affine fits


def test_an_impossible_budget_names_what_binds_and_the_least(planner: Planner) -> None:
    with pytest.raises(InfeasibleBudgetError, match=r"latency .* cannot be reached: the least is .* binding: latency"):
        planner.solve(curves_of(planner, 0), {"latency": 1e-6, "size": 1e9})


def test_solving_prints_nothing(planner: Planner, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    honest = solver.milp
    monkeypatch.setattr(solver, "milp", lambda *given, **named: (os.write(1, b"solver's own words"), honest(*given, **named))[1])
    planner.solve(curves_of(planner, 0), {"latency": 0.6 * planner.predict(planner.dense).latency_ms})
    os.write(1, b"result")
    assert capfd.readouterr().out == "result"


class Widening(nn.Module):
    """A branch that can go whole, of a wide group and a narrow one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide, self.narrow = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 96, 1), nn.Conv2d(96, 16, 3, padding=1)
        self.last, self.head = nn.Conv2d(16, 16, 1), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.stem(x))
        x = x + self.last(functional.relu(self.narrow(functional.relu(self.wide(x)))))
        scores: Tensor = self.head(functional.relu(x).mean((2, 3)))
        return scores


@pytest.mark.parametrize("share", [0.05, 0.07, 0.2])
def test_no_group_of_a_block_goes_alone(share: float) -> None:
    """A block counts with its first group: the others lose nothing by going, and a plan of about equal shares began without them."""
    analysis = analyze(Widening().eval(), IMAGE)
    (block,) = analysis.blocks
    planner = Planner(analysis, FakeTimes(), all_choices(analysis, 8), (2.0, 5.0, 20.0))
    curves = curves_of(planner, 1)
    for name in block.groups[1:]:
        curves[name][0] = curves[name][-1]
    widths = planner.solve(curves, {"memory": share * planner.predict(planner.dense).predicted("memory")})
    assert len({widths[name] > 0 for name in block.groups}) == 1


@pytest.mark.parametrize("late", [{0, 1}, {0}, {1}])
def test_a_search_that_runs_out_of_time_leaves_what_was_found_before(
    planner: Planner, late: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    curves, limits = curves_of(planner, 0), {"macs": 0.5 * planner.predict(planner.dense).macs}
    best = planner.objective_of(curves, planner.solve(curves, limits))
    honest, searches = solver.milp, itertools.count()

    def milp(*given: Any, **named: Any) -> Any:
        found = honest(*given, **named)
        if next(searches) in late:
            found.x, found.status = None, 1
        return found

    monkeypatch.setattr(solver, "milp", milp)
    widths = planner.solve(curves, limits)
    assert planner.predict(widths).macs <= limits["macs"]
    assert 0.7 * best <= planner.objective_of(curves, widths) <= best


def trial_of(latency_ms: float, dense_ms: float, peak: int = 1000, file: int = 500) -> PairedMeasurement:
    def measured(name: str, value: float) -> Measurement:
        times = dict.fromkeys(("latency_ms", "low_ms", "high_ms", "p90_ms", "p99_ms", "load_ms", "first_ms"), value)
        facts = {"runtime": "tflite", "runtime_version": "1", "threads": 1, "device": "box", "stop_reason": "converged", "stable": True}
        memory = {"peak_bytes": peak, "rss_peak_bytes": peak, "file_bytes": file, "energy_mj": None, "energy_method": None}
        return Measurement(name=name, samples_ns=(1,), **times, **facts, **memory)  # type: ignore[arg-type]

    ratio = latency_ms / dense_ms
    return PairedMeasurement(ratio, ratio, ratio, measured("dense", dense_ms), measured("pruned", latency_ms))


def in_turn(measure: Callable[[dict[str, int]], PairedMeasurement]) -> Callable[[Sequence[dict[str, int]]], list[PairedMeasurement]]:
    return lambda plans: [measure(widths) for widths in plans]


def test_the_loop_corrects_the_model_until_the_measurement_fits(planner: Planner) -> None:
    def truth(widths: dict[str, int]) -> float:
        return 0.004 + 1.4 * sum(
            FakeTimes().milliseconds(k, k.in_width.at(widths), k.out_width.at(widths)) * (1.3 if k.spec.kind == "conv2d" else 0.7)
            for k in kernels(planner.analysis)
        )

    dense = ModelMetrics(truth(planner.dense), 1000, 1.0, 500, 4e6, 1000)
    planner.observe_dense(dense.latency_ms, 1000, 500, None)
    tried: list[dict[str, int]] = []

    def build_and_try(plans: Sequence[dict[str, int]]) -> list[PairedMeasurement]:
        tried.extend(plans)
        return [trial_of(truth(widths), dense.latency_ms) for widths in plans]

    loop = Loop(planner, curves_of(planner, 3), Budget(latency="55%"), dense, build_and_try, SILENT, 8)
    chosen = loop.run()
    assert 0.80 <= truth(chosen.widths) / dense.latency_ms / 0.55 <= 1.0
    assert len(tried) <= 8
    assert len({tuple(widths.values()) for widths in tried}) == len(tried)  # nothing is measured twice
    assert planner.predict(chosen.widths).latency_ms == pytest.approx(truth(chosen.widths), rel=0.05)


@pytest.mark.parametrize("seed", range(4))
def test_the_loop_uses_a_budget_that_the_model_cannot_predict(planner: Planner, seed: int) -> None:
    """Narrow models are faster than any sum of scaled kernel times: such an error once ended the search at 90 % of the budget."""
    whole = planner.predict(planner.dense).latency_ms

    def truth(widths: dict[str, int]) -> float:
        return whole * (untouched.predict(widths).latency_ms / whole) ** 1.6

    untouched = Planner(planner.analysis, FakeTimes(), planner.choices, (2.0, 5.0, 20.0))
    dense = ModelMetrics(truth(planner.dense), 1000, 1.0, 500, 4e6, 1000)
    planner.observe_dense(dense.latency_ms, 1000, 500, None)
    curves = curves_of(planner, seed)
    loop = Loop(planner, curves, Budget(latency="50%"), dense, in_turn(lambda widths: trial_of(truth(widths), dense.latency_ms)), SILENT, 8)
    chosen = loop.run()
    assert 0.7 <= truth(chosen.widths) / dense.latency_ms / 0.5 <= 1.0  # the first plan takes 0.53 or 0.63
    assert len(loop.candidates) <= 8


@pytest.mark.parametrize("boards", [2, 3])
def test_several_plans_are_measured_at_once_and_no_more_than_allowed(planner: Planner, boards: int) -> None:
    whole = planner.predict(planner.dense).latency_ms
    untouched = Planner(planner.analysis, FakeTimes(), planner.choices, (2.0, 5.0, 20.0))

    def truth(widths: dict[str, int]) -> float:
        return 1.08 * whole * untouched.predict(widths).latency_ms / whole if widths != untouched.dense else whole

    dense = ModelMetrics(whole, 1000, 1.0, 500, 4e6, 1000)
    planner.observe_dense(whole, 1000, 500, None)
    batches: list[list[dict[str, int]]] = []

    def measure(plans: Sequence[dict[str, int]]) -> list[PairedMeasurement]:
        batches.append(list(plans))
        return [trial_of(truth(widths), whole) for widths in plans]

    loop = Loop(planner, curves_of(planner, 0), Budget(latency="50%"), dense, measure, SILENT, 4, lambda: boards)
    chosen = loop.run()
    assert len(batches[0]) == boards
    first = [loop.candidates[place].predicted.latency_ms for place in range(boards)]
    assert first == sorted(first, reverse=True), "each is predicted further below the budget"
    assert loop.candidates[0].utilization > 1.0 >= loop.candidates[1].utilization, "the first misses, and the second is there already"
    assert chosen.utilization <= 1.0
    assert [widths for plans in batches for widths in plans] == [candidate.widths for candidate in loop.candidates]
    assert len(loop.candidates) <= 4
    assert len({tuple(candidate.widths.values()) for candidate in loop.candidates}) == len(loop.candidates)


def test_a_loop_that_never_fits_says_by_how_much(planner: Planner) -> None:
    dense = ModelMetrics(1.0, 1000, 1.0, 500, 4e6, 1000)
    planner.observe_dense(1.0, 1000, 500, None)
    loop = Loop(planner, curves_of(planner, 0), Budget(latency="50%"), dense, in_turn(lambda widths: trial_of(0.9, 1.0)), SILENT, 3)
    with pytest.raises(InfeasibleBudgetError, match="latency 900 µs instead of 500 µs"):
        loop.run()


def test_a_plan_whose_tuned_model_misses_is_not_taken_again(planner: Planner) -> None:
    """A candidate measured to be inside was chosen again and again, though its tuned model was not (a noisy meter)."""
    whole = planner.predict(planner.dense).latency_ms
    dense = ModelMetrics(whole, 1000, 1.0, 500, 4e6, 1000)
    planner.observe_dense(whole, 1000, 500, None)

    def loop() -> Loop:
        fresh = Planner(planner.analysis, FakeTimes(), planner.choices, (2.0, 5.0, 20.0))
        fresh.observe_dense(whole, 1000, 500, None)

        def measure(widths: dict[str, int]) -> PairedMeasurement:
            return trial_of(0.98 * planner.predict(widths).latency_ms, whole)

        return Loop(fresh, curves_of(planner, 0), Budget(latency="50%"), dense, in_turn(measure), SILENT, 3)

    first = loop().run()
    again = loop()
    assert again.run().widths == first.widths
    other = loop()
    other.avoid({tuple(first.widths.values()): 1.02})
    assert other.run().widths != first.widths
    none = loop()
    none.planner.choices = {name: [width] for name, width in first.widths.items()}
    none.curves = {name: [1.0] for name in first.widths}
    none.avoid({tuple(first.widths.values()): 1.02})
    with pytest.raises(InfeasibleBudgetError, match="no further plan can meet the budget"):
        none.run()


def test_budgets_are_resolved_against_the_dense_model() -> None:
    dense = ModelMetrics(8.0, 5_000_000, 90.0, 1_000_000, 80e6, 300_000)
    limits = resolved(Budget(latency="50%", memory="2MB", energy="40mJ", macs="20M", parameters="10%"), dense)
    assert limits == {"latency": 4.0, "memory": 2_000_000, "energy": 40.0, "macs": 20e6, "parameters": 30_000}


@pytest.mark.parametrize(("kind", "share"), [("macs", 0.5), ("parameters", 0.4), ("latency", 0.6)])
def test_every_kind_of_limit_binds(planner: Planner, kind: str, share: float) -> None:
    planner.observe_dense(1.0, 1000, 500, None)
    dense = planner.predict(planner.dense)
    found = planner.predict(planner.solve(curves_of(planner, 3), {kind: share * dense.of(kind)}))
    assert 0.75 * share < found.of(kind) / dense.of(kind) <= share


@pytest.mark.parametrize("text", ["15", "15 parsecs", "ms", "-3ms", "0ms", "nan%"])
def test_budgets_without_sense_are_refused(text: str) -> None:
    with pytest.raises(BudgetError, match="latency"):
        Budget(latency=text)


@pytest.mark.parametrize("options", [{"schedule": "never"}, {"measurements": 0}, {"threads": 0}, {"epochs": -1.0}])
def test_options_without_sense_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(InputError):
        Options(**options)  # type: ignore[arg-type]


def test_a_run_directory_recalls_what_it_recorded_and_drops_a_torn_line(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "job")
    run.update(inputs={"recipe": "a.py"})
    run.record("one", {"value": 1})
    with pytest.raises(RunError, match="in use"):
        RunDirectory.reopen(run.path)
    run.close()
    with open(run.path / "measurements.jsonl", "a") as file:
        file.write('{"key": "two", "val')
    again = RunDirectory.reopen(run.path)
    assert again.recall("one") == {"value": 1}
    assert again.recall("two") is None
    again.record("two", {"value": 2})
    again.close()
    assert RunDirectory.reopen(run.path).recall("two") == {"value": 2}
    assert read_inputs(run.path) == {"recipe": "a.py"}


def test_a_damaged_run_is_named(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "job")
    run.update(inputs={})
    run.close()
    (run.path / "measurements.jsonl").write_text("nonsense\n")
    with pytest.raises(RunError, match="line 1"):
        RunDirectory.reopen(run.path)
    with pytest.raises(RunError, match="not a run directory"):
        RunDirectory.reopen(tmp_path)
