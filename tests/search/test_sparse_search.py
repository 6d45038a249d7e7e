"""Sparse kernels' cost from chains, the choice between sparse weights and fewer channels, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter
from sparse_models import stored, variants
from torch import nn

from edgeprune.cli import main
from edgeprune.cost.choices import width_choices
from edgeprune.cost.kernels import Kernel, macs
from edgeprune.cost.sparse_kernels import PAIRS, SparseCost, SparsePoint, is_pointwise, sparse_chain, sparse_points
from edgeprune.cost.table import Table
from edgeprune.errors import InfeasibleBudgetError
from edgeprune.export.sparse.check import sparse_check
from edgeprune.graph import analyze
from edgeprune.importance.unstructured import sparse_parameters, sparsity_of
from edgeprune.runs.events import EpochEnded, RunEnded, RunStarted, read_events
from edgeprune.search.plan.planner import Planner
from edgeprune.search.sparse.choice import SPARSITIES, measure_sparse, sparse_choice, sparse_options, with_sparse
from edgeprune.surgery import load

TRUE_COST = SparseCost(per_weight_ms=2e-6, per_output_ms=4e-6, each_ms=2e-3)
POINT = SparsePoint((8, 8), 16, 24, 0.7)


class DenseTimes:
    """Proportional to multiplications, a fourth of the sparse kernels' time for each."""

    measured = True
    call_ms = 0.0

    def milliseconds(self, kernel: Kernel, in_width: float, out_width: float) -> float:
        return 1e-3 + 0.5e-6 * macs(kernel.spec, in_width, out_width)


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 128, 1), nn.ReLU(), nn.Conv2d(128, 128, 3, 2, 1, groups=128), nn.ReLU(),
        nn.Conv2d(128, 128, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 4),
    )  # fmt: skip


@pytest.fixture
def planner() -> Planner:
    analysis = analyze(network(), (torch.zeros(1, 3, 32, 32),))
    choices = {group.name: width_choices(group, 4) for group in analysis.groups}
    return Planner(analysis, DenseTimes(), choices, (2.0, 5.0, 20.0))


def curves(planner: Planner) -> dict[str, list[float]]:
    return {name: [-((1 - width / widths[-1]) ** 2) for width in widths] for name, widths in planner.choices.items()}


@pytest.mark.parametrize("pairs", [0, 1, PAIRS])
def test_chains_run_sparse_and_differ_by_their_pairs_alone(pairs: int) -> None:
    content = sparse_chain(POINT, pairs)
    report = sparse_check(content)
    assert report.taken
    assert report.sparse == report.pointwise == 1 + 2 * pairs
    assert report.zeros == pytest.approx(0.7, abs=0.002)
    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    detail = interpreter.get_input_details()[0]
    assert detail["shape"].tolist() == [1, 16, 16, 3]
    interpreter.set_tensor(detail["index"], np.ones(detail["shape"], np.float32))
    interpreter.invoke()
    assert interpreter.get_tensor(interpreter.get_output_details()[0]["index"]).shape == (1, 1, 1, 24)


def test_a_kernels_time_is_what_the_longer_chain_has_on_top() -> None:
    times = {f"{POINT.key}-0.tflite": 3.0, f"{POINT.key}-{PAIRS}.tflite": 5.0}
    assert POINT.milliseconds(times) == pytest.approx(0.5)
    assert POINT.milliseconds(dict.fromkeys(times, 3.0)) == 0.0


def test_the_fit_finds_the_devices_numbers() -> None:
    points = [SparsePoint(rows, 8 * size, 16 * size, zeros) for rows in ((4, 4), (16, 16)) for size in (1, 4) for zeros in (0.7, 0.9)]
    measured = [(point, TRUE_COST.milliseconds(point.rows, point.in_width, point.out_width, point.zeros)) for point in points]
    found = SparseCost.fit([*measured, (POINT, 0.0)])
    assert found.milliseconds((8, 8), 64, 96, 0.8) == pytest.approx(TRUE_COST.milliseconds((8, 8), 64, 96, 0.8), rel=1e-6)
    assert found.per_weight_ms == pytest.approx(2e-6, rel=1e-6)


def test_a_model_is_measured_at_the_largest_kernel_of_each_map(planner: Planner) -> None:
    points = sparse_points(planner.kernels, planner.dense)
    assert {(point.rows, point.in_width, point.out_width) for point in points} == {((16, 16), 16, 128), ((8, 8), 128, 128)}
    assert len(points) == 4
    assert sum(is_pointwise(kernel.spec) for kernel in planner.kernels) == 2


def test_the_device_table_is_measured_once_and_kept(tmp_path: Path) -> None:
    table = Table.open(tmp_path / "table.json")
    points = [SparsePoint((4, 4), 8, 8, zeros) for zeros in (0.7, 0.9)]
    measure_sparse("local:", points, table)
    assert sorted(table.times) == sorted(name for point in points for name in point.files())
    assert all(time > 0 for time in table.times.values())
    again = Table.open(tmp_path / "table.json")
    assert measure_sparse("no-such-device", points, again) == measure_sparse("no-such-device", points, table)


def test_sparse_predictions_follow_the_sparse_kernels_cost(planner: Planner) -> None:
    dense, sparse = planner.predict(planner.dense).latency_ms, with_sparse(planner, TRUE_COST, 0.9).predict(planner.dense).latency_ms
    swapped = sum(
        TRUE_COST.milliseconds(kernel.spec.rows_out, kernel.in_width.at(planner.dense), 128, 0.9)
        - DenseTimes().milliseconds(kernel, kernel.in_width.at(planner.dense), 128)
        for kernel in planner.kernels
        if is_pointwise(kernel.spec)
    )
    assert sparse == pytest.approx(dense + swapped)
    assert with_sparse(planner, TRUE_COST, 0.9, factor=1.5).predict(planner.dense).latency_ms == pytest.approx(1.5 * sparse)
    assert planner.predict(planner.dense).latency_ms == dense


def test_every_way_meets_the_limit_and_the_cheapest_sparsity_ends_the_list(planner: Planner) -> None:
    limit = with_sparse(planner, TRUE_COST, 0.85).predict(planner.dense).latency_ms
    ways = sparse_options(planner, TRUE_COST, curves(planner), {"latency": limit})
    assert [(way.kind, way.sparsity) for way in ways] == [("channel", 0.0), ("both", 0.7), ("both", 0.75), ("both", 0.8), ("sparse", 0.85)]
    assert ways[-1].widths == planner.dense
    kept = [sum(way.widths.values()) for way in ways]
    assert kept[1] <= kept[2] <= kept[3] < kept[4]
    for way in ways:
        assert way.latency_ms <= limit * (1 + 1e-9)
    assert [way.kind for way in sparse_options(planner, None, curves(planner), {"latency": limit})] == ["channel"]


def test_the_choice_is_the_one_of_least_loss(planner: Planner) -> None:
    limit = with_sparse(planner, TRUE_COST, 0.85).predict(planner.dense).latency_ms
    ways = sparse_options(planner, TRUE_COST, curves(planner), {"latency": limit})
    for wanted in range(len(ways)):
        choice, losses = sparse_choice(ways, lambda way, wanted=wanted: abs(ways.index(way) - wanted))
        assert choice == ways[wanted]
        assert losses == [abs(index - wanted) for index in range(len(ways))]


def test_an_impossible_limit_says_what_binds(planner: Planner) -> None:
    with pytest.raises(InfeasibleBudgetError, match="latency"):
        sparse_options(planner, TRUE_COST, curves(planner), {"latency": 1e-4})
    assert SPARSITIES[0] > 2 / 3


RECIPE = """
import torch
from torch import nn
from edgeprune import Task

def task():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 32, 1), nn.ReLU(), nn.Conv2d(32, 16, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, 4),
    )
    data = [(torch.randn(8, 3, 16, 16), torch.arange(8) % 4)]
    return Task(model, (torch.zeros(1, 3, 16, 16),), train=data, validation=data, epochs=2)
"""


def test_the_command_makes_a_sparse_file_and_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "small.py"
    recipe.write_text(RECIPE)
    assert main(["sparsify", str(recipe), "--sparsity", "80%", "--output", str(tmp_path / "run"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["kind"] == "sparse"
    assert document["sparsity"] == pytest.approx(0.8, abs=0.01)
    assert document["check"]["taken"]
    assert 0 <= document["score"] <= 100
    assert document["score_error"] > 0 or document["score"] in (0, 100)
    told = [event for _, event in read_events(tmp_path / "run")]
    assert isinstance(told[0], RunStarted)
    assert [event.epoch for event in told if isinstance(event, EpochEnded)] == [1, 2]
    assert isinstance(told[-1], RunEnded)
    assert told[-1].state == "done"
    assert set(document["files"]) == {"tflite", "tflite-sparse"}
    space: dict[str, object] = {}
    exec(RECIPE, space)
    model = load(space["task"]().model, document["checkpoint"])  # type: ignore[operator]
    assert sparsity_of(sparse_parameters(model)) == pytest.approx(document["sparsity"])
    assert main(["sparsify", "--check", document["files"]["tflite-sparse"]["path"]]) == 0
    assert "Sparse kernels run 2 of 2 1x1 convolutions" in capsys.readouterr().out


def test_the_check_explains_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "stem.tflite"
    path.write_bytes(stored(variants()["stride-1 stem"]))
    assert main(["sparsify", "--check", str(path), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["taken"] is False
    assert document["findings"][0]["why"] == "the first convolution has stride 1x1, not 2"
    assert main(["sparsify", "--check", str(path)]) == 1
    assert "CONV_2D" in capsys.readouterr().out
    assert main(["sparsify", "--check", str(tmp_path / "absent.tflite")]) == 1
    assert "cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["a.py"], ["a.py", "--sparsity", "140%"], ["a.py", "--sparsity", "auto"], ["a.py", "--sparsity", "0.8", "--latency", "5ms"]],
)
def test_wrong_usage_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sparsify", *arguments]) == 2
    assert "sparsity" in capsys.readouterr().err


LINEAR_RECIPE = """
import torch
from torch import nn
from edgeprune import Task

def task():
    torch.manual_seed(0)
    batches = [(torch.randn(8, 16), torch.arange(8) % 4)] * 2
    return Task(nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)), (torch.zeros(1, 16),), train=batches, epochs=1)
"""


def test_a_share_of_zeros_that_no_file_can_use_is_refused_before_the_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "linear.py"
    recipe.write_text(LINEAR_RECIPE)
    assert main(["sparsify", str(recipe), "--sparsity", "30%", "--output", str(tmp_path / "run")]) == 1
    assert "a sparsity of 30 % is too low" in capsys.readouterr().err
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_that_nothing_gets_faster_is_said_before_the_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "linear.py"
    recipe.write_text(LINEAR_RECIPE)
    assert main(["sparsify", str(recipe), "--sparsity", "80%", "--output", str(tmp_path / "run")]) == 0
    told = "".join(capsys.readouterr())
    assert told.index("nothing will run faster: the model has no 1x1 convolution") < told.index("exporting tflite and tflite-sparse")
