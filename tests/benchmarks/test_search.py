"""The search benchmark: how methods are brought to a budget, how rows are kept and go on, what the page says of them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.search import main
from benchmarks.search.cases import METHODS, Rows, plan_of_work
from benchmarks.search.meet import Built, Timed, meet
from benchmarks.search.peers import has_shortcuts, keep, kept, plain
from benchmarks.search.report import Model, document, faster, write
from benchmarks.search.session import Remembered, Shuffled, macs_of, shape_key
from edgeprune.errors import InfeasibleBudgetError
from edgeprune.graph import analyze
from edgeprune.surgery import Plan, apply

# --- to the budget ---


def builder(x_of: Callable[[float], float] = lambda x: x) -> Callable[[float], Built]:
    return lambda x: Built(nn.Identity(), f"{x_of(x):.6f}", x_of(x), lambda folder: None)


def clock(latency: Callable[[float], float]) -> Callable[[Built], Timed]:
    return lambda built: Timed(latency(built.x), 0.0, 1.0, latency(built.x))


@pytest.mark.parametrize("latency", [lambda x: x, lambda x: 0.2 + 0.8 * x, lambda x: x**0.5, lambda x: x**2])
@pytest.mark.parametrize("budget", [0.7, 0.5, 0.3])
def test_the_measurement_is_brought_to_the_budget(latency: Callable[[float], float], budget: float) -> None:
    found = meet(builder(), clock(latency), budget)
    assert 0.96 * budget <= found.timed.ratio <= budget
    assert found.timed.ratio == latency(found.built.x)
    assert len(found.tried) <= 5


def test_what_is_known_saves_measurements() -> None:
    def latency(x: float) -> float:
        return 0.2 + 0.8 * x

    found = meet(builder(), clock(latency), 0.5, [(x, latency(x)) for x in (0.3, 0.45)])
    assert len(found.tried) == 1


def test_of_coarse_steps_the_nearest_below_counts_and_none_is_measured_twice() -> None:
    found = meet(builder(lambda x: int(4 * x) / 4), clock(lambda x: 0.1 + 0.9 * x), 0.7)
    assert found.built.x == 0.5
    keys = [built.key for built, _ in found.tried]
    assert len(keys) == len(set(keys))


def test_a_budget_out_of_reach_is_said() -> None:
    def refuses(x: float) -> Built:
        if x < 0.5:
            raise InfeasibleBudgetError("too narrow")
        return builder()(x)

    with pytest.raises(InfeasibleBudgetError, match="30 % of the dense latency was not reached"):
        meet(refuses, clock(lambda x: x), 0.3)
    with pytest.raises(InfeasibleBudgetError, match="its fastest model takes 4"):
        meet(builder(), clock(lambda x: max(x, 0.4)), 0.3)


# --- rows ---


def test_rows_outlive_a_kill_and_the_last_of_a_key_counts(tmp_path: Path) -> None:
    path = tmp_path / "model.jsonl"
    row = {"kind": "tuned", "model": "model", "method": "uniform", "budget": 0.5, "seed": 1, "value": 1}
    Rows(path).add(row)
    with path.open("a") as file:
        file.write('{"kind": "tuned", "mod')  # cut short
    rows = Rows(path)
    rows.add(row | {"value": 2})
    rows.add(row | {"seed": 2, "value": 3})
    again = Rows(path)
    found = again.get("tuned", "model", "uniform", 0.5, 1)
    assert found is not None
    assert found["value"] == 2
    assert sorted(one["value"] for one in again.of("tuned")) == [2, 3]
    assert again.get("tuned", "model", "uniform", 0.5, 0) is None


def test_the_first_seed_of_everything_comes_first() -> None:
    order = plan_of_work(["a", "b"], ["edgeprune", "halp"], [0.7, 0.5], [0, 1])
    assert len(order) == len(set(order)) == 16
    assert [one[0] for one in order] == [0] * 8 + [1] * 8


def test_work_that_has_its_row_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []

    class Begun(Exception):
        pass

    def begin(case: object, target: str) -> None:
        begun.append(target)
        raise Begun

    monkeypatch.setattr(main, "Session", begin)
    monkeypatch.setattr(main, "warm", lambda: None)
    Rows(tmp_path / "resnet20.jsonl").add({"kind": "tuned", "model": "resnet20", "method": "halp", "budget": 0.5, "seed": 0})
    before = (tmp_path / "resnet20.jsonl").read_bytes()
    matrix = main.Matrix("local:", tmp_path, redo=False)
    matrix.work("resnet20", "halp", 0.5, 0, None)
    assert not begun
    with pytest.raises(Begun):
        matrix.work("resnet20", "halp", 0.5, 1, None)
    with pytest.raises(Begun):
        main.Matrix("local:", tmp_path, redo=True).work("resnet20", "halp", 0.5, 0, None)
    assert (tmp_path / "resnet20.jsonl").read_bytes() == before


# --- what is done alike ---


class Epochs:
    def __init__(self) -> None:
        self.seen: list[int] = []

    def set_epoch(self, epoch: int) -> None:
        self.seen.append(epoch)

    def __len__(self) -> int:
        return 3

    def __iter__(self):
        return iter([(0, 0)] * 3)


def test_every_seed_has_its_own_order_of_the_data() -> None:
    inner = Epochs()
    for seed in range(3):
        shuffled = Shuffled(inner, seed)
        assert len(shuffled) == len(list(shuffled)) == 3
        for epoch in range(2):
            shuffled.set_epoch(epoch)
    assert len(set(inner.seen)) == 6


def test_the_teacher_answers_a_batch_once_and_as_the_model_does() -> None:
    model, calls = network(), []
    teacher = Remembered(model)
    teacher.model.register_forward_hook(lambda *_: calls.append(1))
    first, second = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    for batch in (first, second, first.clone(), first.to(memory_format=torch.channels_last)):
        assert torch.allclose(copy.deepcopy(teacher)(batch), model(batch), atol=1e-6)
    assert len(calls) == 2


class Shortcut(nn.Module):
    """Every second pixel, and zeros for the channels that are new."""

    def __init__(self, added: int) -> None:
        super().__init__()
        self.added = added

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return nn.functional.pad(inputs[:, :, ::2, ::2], (0, 0, 0, 0, self.added // 2, self.added // 2))


class Depthwise(nn.Conv2d):
    """A convolution of each channel by itself."""


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm, self.shortcut = nn.Conv2d(8, 16, 3, 2, padding=1), nn.BatchNorm2d(16), Shortcut(8)
        self.deep = Depthwise(16, 16, 3, padding=1, groups=16)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.deep(torch.relu(self.norm(self.conv1(inputs)))) + self.shortcut(inputs)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)).eval()


def test_peers_get_a_model_that_computes_the_same() -> None:
    model, inputs = network(), torch.randn(2, 3, 8, 8)
    made = plain(model, True)
    assert has_shortcuts(model)
    assert not has_shortcuts(made)
    assert not any(isinstance(module, Depthwise) for module in made.modules())
    assert torch.allclose(made(inputs), model(inputs), atol=1e-6)
    assert isinstance(model[1].deep, Depthwise)


def test_a_peer_s_narrower_model_is_kept_and_made_again(tmp_path: Path) -> None:
    model, inputs = network(), torch.randn(2, 3, 8, 8)
    widened = plain(model, True)  # cut here as a peer would: everything of a group, in the modules themselves
    analysis = analyze(widened, (inputs[:1],))
    kept_of = {group.name: (tuple(range(0, group.size, 2)),) for group in analysis.groups}
    narrow = apply(widened, analysis, Plan(analysis.fingerprint, kept_of), "modules").model.eval()
    assert macs_of(narrow, (inputs[:1],)) < 0.6 * macs_of(widened, (inputs[:1],))
    keep(narrow, True, tmp_path)
    again = kept(model, tmp_path)
    assert shape_key(again) == shape_key(narrow)
    assert torch.equal(again(inputs), narrow(inputs))
    assert [module.in_channels for module in again.modules() if isinstance(module, nn.Conv2d)] == [
        3,
        4,
        4,
        8,
    ]  # stem, conv1, shortcut, depthwise


def test_multiplications_are_counted() -> None:
    assert macs_of(nn.Conv2d(3, 8, 3, padding=1), (torch.zeros(1, 3, 8, 8),)) == 64 * 9 * 3 * 8


# --- the page ---

COMMON = {
    "model": "resnet20",
    "dense_ms": 2.0,
    "device": "a board",
    "versions": {"torch": "2", "ai-edge-litert": "3"},
    "code": "abc",
    "date": "2026-01-02",
}
FIGURES = {"low": 0.4, "high": 0.6, "macs": 5_000_000, "parameters": 40_000, "measurements": 3, "error": None}


def scores(accuracy: float, divergence: float) -> dict[str, float]:
    return {"accuracy": accuracy, "loss": 0.5, "divergence": divergence}


def add_method(rows: Rows, method: str, budget: float, after: list[float], before: float = 30.0, ratio: float = 0.5) -> None:
    key = COMMON | {"method": method, "budget": budget, "latency_ms": 2.0 * ratio, "ratio": ratio}
    tried = [{"x": 0.5, "ratio": ratio, "predicted_ms": 2.1 * ratio, "measured_ms": 2.0 * ratio, "calibrated_on": 2, "widths": {"a": 1}}]
    rows.add(key | FIGURES | {"kind": "search", "search_s": 60.0, "search_cpu_s": 20.0, "tried": tried})
    for seed, accuracy in enumerate(after):
        tuned = {"kind": "tuned", "seed": seed, "steps": 120, "seconds": 9.0, "before": scores(before, 2.0), "after": scores(accuracy, 0.4)}
        rows.add(key | FIGURES | tuned | {"dense": scores(90.0, 0.0)})


@pytest.fixture
def results(tmp_path: Path) -> Path:
    rows = Rows(tmp_path / "results" / "resnet20.jsonl")
    rows.add(COMMON | {"kind": "setup", "kernels": 184, "prepare_s": 28.0, "dense": scores(90.0, 0.0)})
    add_method(rows, "edgeprune", 0.5, [80.0, 82.0, 84.0], before=50.0)
    add_method(rows, "edgeprune", 0.3, [70.0], ratio=0.3)
    add_method(rows, "tp-taylor", 0.5, [76.0], ratio=0.48)
    add_method(rows, "halp", 0.5, [83.0], before=40.0)
    failed = {
        "kind": "search",
        "method": "fastnas",
        "budget": 0.5,
        "error": "no subnet",
        "measurements": 0,
        "search_s": 5.0,
        "search_cpu_s": 4.0,
    }
    rows.add(COMMON | failed)
    return tmp_path / "results"


def test_the_page_says_where_it_wins_and_where_it_loses(results: Path, tmp_path: Path) -> None:
    page = write(results, tmp_path / "docs").read_text()
    margins = next(line for line in page.splitlines() if line.startswith("| resnet20 | 50 %"))
    assert "| 50.0 | 40.0 halp (+10.0) |" in margins
    assert "| 82.0 | 83.0 halp (-1.0) |" in margins
    assert "82.0 (80.0..84.0)" in page
    assert "ModelOpt FastNAS: no subnet." in page
    assert "4 plans" not in page
    assert "| all | 0 |  |  | 4 | 5.0 % | 5.0 % |" in page
    assert "before fine-tuning in 1 of 1; after fine-tuning in 0 of 1" in page
    chart = (tmp_path / "docs" / "search-scatter.svg").read_text()
    assert chart.count("<circle") == 4 + 1  # the points, and the legend's
    assert f"]({'search-scatter.svg'})" in page


def test_the_latency_at_the_same_accuracy_is_interpolated(results: Path) -> None:
    model = Model("resnet20", Rows(results / "resnet20.jsonl"))
    theirs = model.cell("tp-taylor", 0.5)
    assert theirs is not None
    # 76 % lies half way between 70 % at 0.3 and 82 % at 0.5: at 0.4, and 0.48 / 0.4 = 1.2
    assert faster(model, theirs) == "1.20"


def test_the_latency_at_the_same_accuracy_may_lie_outside(results: Path) -> None:
    rows = Rows(results / "resnet20.jsonl")
    add_method(rows, "tp-taylor", 0.5, [60.0], ratio=0.48)
    add_method(rows, "tp-isomorphic", 0.5, [95.0], ratio=0.48)
    model = Model("resnet20", rows)
    worse, better = model.cell("tp-taylor", 0.5), model.cell("tp-isomorphic", 0.5)
    assert worse is not None
    assert better is not None
    assert faster(model, worse) == "> 1.60"
    assert "above the dense" in faster(model, better)


def test_a_page_of_a_part_of_the_matrix_is_written_too(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "resnet20.jsonl")
    rows.add(COMMON | {"kind": "setup", "kernels": 184, "prepare_s": 28.0, "dense": scores(90.0, 0.0)})
    add_method(rows, "uniform", 0.7, [80.0])
    page = document([Model("resnet20", rows)])
    assert "### resnet20 at 70 % (120 steps)" in page
    assert "Against Torch-Pruning" not in page


def test_every_method_has_a_name_on_the_page() -> None:
    from benchmarks.search.report import NAMES

    assert set(NAMES) == set(METHODS)


def test_results_are_plain_lines(results: Path) -> None:
    lines = (results / "resnet20.jsonl").read_text().splitlines()
    assert all(json.loads(line)["model"] == "resnet20" for line in lines)
