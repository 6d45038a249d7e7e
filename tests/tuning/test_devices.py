"""Everything that is computed on a device, on one that refuses to be mixed with the CPU; and what a name of a device means."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from blobs import blobs as made_blobs
from elsewhere import ELSEWHERE, elsewhere
from torch import nn

from edgeprune import placement
from edgeprune.budget import Budget
from edgeprune.errors import InputError, RecipeError, TrainingError
from edgeprune.graph import analyze
from edgeprune.importance import score as saliency_of
from edgeprune.placement import device_of, resolve
from edgeprune.search import Options
from edgeprune.search.plan.sensitivity import importance_curves
from edgeprune.search.preflight import preflight
from edgeprune.surgery import apply, plan_from_saliency, reconstruct
from edgeprune.task import Task
from edgeprune.tuning import finetune, recalibrate, score
from edgeprune.tuning.gates import GatedModel
from edgeprune.tuning.sparsify import sparsify

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


blobs = partial(made_blobs, 48, 16)


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 8, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2),
        ).eval()  # fmt: skip


class Positions(nn.Module):
    """Its graph makes a tensor, and layer norm over channels needs a reference."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.norm, self.last = nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 2)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        places = torch.arange(inputs.shape[1], device=inputs.device, dtype=inputs.dtype)[None, :, None]
        return self.last(torch.relu(self.norm(self.first(inputs + 0.1 * places)))).mean(1)


def sequences() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(8, 5, 6, generator=generator), torch.arange(8) % 2) for _ in range(3)]


def task(device: str, model: nn.Module | None = None, **changes: object) -> Task:
    settings: dict[str, object] = {"train": blobs(), "validation": blobs(), "epochs": 1.5, "learning_rate": 0.1, "mixed_precision": False}
    example = changes.pop("example", (torch.zeros(1, 3, 8, 8),))
    return Task(model or network(), example, device=device, name="blobs", **settings | changes)  # type: ignore[arg-type]


def kinds(device: str) -> list[Task]:
    return [task(device), task(device, Positions(), train=sequences(), validation=sequences(), example=(torch.zeros(1, 5, 6),))]


def halved(of: Task) -> tuple[object, object, dict[str, np.ndarray]]:
    analysis = analyze(of.model, of.example_inputs)
    saliency = {group.name: np.arange(group.rows.size, dtype=float).reshape(group.rows.shape) + 1 for group in analysis.groups}
    return analysis, plan_from_saliency(analysis, saliency, {group.name: group.size // 2 for group in analysis.groups}), saliency


def alike(first: nn.Module, second: nn.Module) -> None:
    """The same weights, on the CPU."""
    for (name, one), other in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert one.device == other.device == torch.device("cpu"), name
        assert type(other) is torch.Tensor, name
        assert torch.allclose(one.float(), other.float(), rtol=1e-3, atol=1e-4), name


def scored(of: Task) -> object:
    return score(of.model, of)


def tuned(of: Task) -> nn.Module:
    model = copy.deepcopy(of.model)
    parameters = list(model.parameters())
    finetune(model, of, teacher=of.model)
    assert all(one is other for one, other in zip(parameters, model.parameters(), strict=True))
    return model


def rebuilt(of: Task) -> nn.Module:
    analysis, plan, _ = halved(of)
    result = reconstruct(of.model, analysis, plan, of.train, resolve(of.device).device)  # type: ignore[arg-type]
    with of.on_device(result):
        recalibrate(result, of.batches("train"))
    return result


def tuned_graph(of: Task) -> nn.Module:
    """A graph, where it was captured is written into it."""
    analysis, plan, _ = halved(of)
    pruned = apply(of.model, analysis, plan, "graph").model  # type: ignore[arg-type]
    finetune(pruned, of, teacher=of.model)
    return pruned


def curves(of: Task) -> object:
    analysis, _, saliency = halved(of)
    choices = {group.name: list(range(2, group.size + 1, 2)) for group in analysis.groups}  # type: ignore[attr-defined]
    return importance_curves(of, analysis, saliency, choices)  # type: ignore[arg-type]


def gated(of: Task) -> nn.Module:
    analysis, _, _ = halved(of)
    whole = apply(of.model, analysis, plan_from_saliency(analysis, {g.name: 1.0 + 0 * g.rows for g in analysis.groups}, {}))  # type: ignore
    model = GatedModel(whole, analysis, {group.name: 1.0 for group in analysis.groups}, 0.5, 5, 0.05)  # type: ignore
    finetune(model, of, teacher=of.model)
    assert all(np.isfinite(values).all() for values in model.saliency().values())
    return model


def sparse(of: Task) -> nn.Module:
    model = copy.deepcopy(of.model)
    assert sparsify(model, of, 0.5, teacher=of.model).sparsity == pytest.approx(0.5, abs=0.1)
    return model


@pytest.mark.parametrize("work", [scored, tuned, rebuilt, tuned_graph, curves, gated, sparse])
@pytest.mark.parametrize("kind", [0, 1], ids=["images", "sequences"])
def test_everything_moves_to_the_device_and_back(work: Callable[[Task], object], kind: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor that stays behind is an error there."""
    wanted = work(kinds("cpu")[kind])
    with elsewhere(monkeypatch):
        found = work(kinds("cuda")[kind])
    if isinstance(wanted, nn.Module):
        alike(wanted, found)  # type: ignore[arg-type]
    else:
        assert found == pytest.approx(wanted, rel=1e-3, abs=1e-4) if not isinstance(wanted, dict) else found.keys() == wanted.keys()
        for name in wanted if isinstance(wanted, dict) else ():
            assert found[name] == pytest.approx(wanted[name], rel=1e-2, abs=1e-4)  # type: ignore[index]


@pytest.mark.parametrize("criterion", ["taylor", "fisher", "activation", "apoz"])
@pytest.mark.parametrize("kind", [0, 1], ids=["images", "sequences"])
def test_criteria_give_the_same_scores_on_the_device(criterion: str, kind: int, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = kinds("cpu")[kind], kinds("cuda")[kind]
    wanted = saliency_of(here, analyze(here.model, here.example_inputs), criterion)
    with elsewhere(monkeypatch):
        found = saliency_of(there, analyze(there.model, there.example_inputs), criterion)
    for name in wanted:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-3, atol=1e-6)
    assert device_of(there.model).type == "cpu"


def test_a_loss_with_weights_and_a_users_own_fit_see_the_devices_they_expect(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def fit(model: nn.Module) -> None:
        seen.append(device_of(model))
        model.to(ELSEWHERE)

    with elsewhere(monkeypatch):
        weighted = task("cuda", loss=nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0])))
        finetune(copy.deepcopy(weighted.model), weighted)
        assert weighted.loss.weight.device.type == "cpu"  # type: ignore[union-attr]
        model = network()
        finetune(model, task("cuda", fit=fit, metric=lambda outputs, targets: outputs.numpy().mean()))
        assert device_of(model).type == "cpu", "whatever fit leaves it on"
    assert seen == [torch.device("cpu")]


def test_a_training_that_was_interrupted_on_a_device_continues_on_the_cpu(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(done: int, total: int, loss: float) -> None:
        if done == 4:
            raise KeyboardInterrupt

    whole, continued = network(), network()
    finetune(whole, task("cpu", ema=0.9, optimizer="adamw", learning_rate=0.01))
    with elsewhere(monkeypatch), pytest.raises(KeyboardInterrupt):
        finetune(network(), task("cuda", ema=0.9, optimizer="adamw", learning_rate=0.01), checkpoint=tmp_path / "c", on_progress=stop)
    finetune(continued, task("cpu", ema=0.9, optimizer="adamw", learning_rate=0.01), checkpoint=tmp_path / "c")
    alike(whole, continued)


def test_a_loss_that_is_no_number_is_named_with_its_step_though_it_is_read_later(monkeypatch: pytest.MonkeyPatch) -> None:
    data = blobs()
    data[1] = (data[1][0] * float("nan"), data[1][1])
    with elsewhere(monkeypatch), pytest.raises(TrainingError, match="the loss of blobs became nan at step 2 of 5"):
        finetune(network(), task("cuda", train=data))


# --- names -----------------------------------------------------------------------------------------------------------


def test_names_of_devices() -> None:
    assert resolve("cpu").devices == (torch.device("cpu"),)
    assert resolve("cpu:2").devices == (torch.device("cpu"),) * 2
    assert resolve("auto").ranks == 1
    assert resolve("cpu").text == "the CPU"
    assert resolve("cpu:2").text == "2 processes on the CPU"


@pytest.mark.parametrize("name", ["gpu", "cpu:", "cpu:0", "cuda:x", "cpu,cpu", "", "cpu:2,cpu", "meta"])
def test_unknown_devices_are_named_with_what_there_is(name: str) -> None:
    with pytest.raises(InputError, match="device") as caught:
        resolve(name)
    assert "cuda:0,cuda:1" in str(caught.value.remedy) or "64" in caught.value.message


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused_before_any_work() -> None:
    with pytest.raises(InputError, match=r"device cuda:1 was asked for") as caught:
        preflight(None, "raspberry-pi-4", Budget(latency="50%"), Options(device="cuda:1"))
    assert "--device auto" in str(caught.value.remedy)


def test_auto_is_the_best_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: None)
    assert resolve("auto").device == torch.device("cpu")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: torch.device("cuda"))
    assert resolve("auto").device == torch.device("cuda", 0)
    monkeypatch.setattr(placement, "_count", lambda kind: 2)
    assert resolve("cuda:0,cuda:1").devices == (torch.device("cuda", 0), torch.device("cuda", 1))
    with pytest.raises(InputError, match="this machine has cuda:0 to cuda:1"):
        resolve("cuda:2")


def test_a_model_elsewhere_is_pruned_as_a_copy_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    with elsewhere(monkeypatch):
        model = network().to(ELSEWHERE)
        monkeypatch.setattr("edgeprune.task.NOWHERE", torch.device("xla"))
        made = task("cuda", model)
        assert (device_of(made.model).type, device_of(model)) == ("cpu", ELSEWHERE)
    monkeypatch.undo()
    with pytest.raises(RecipeError, match=r"weights of task\.model are on meta"):
        task("cpu", nn.Linear(2, 2, device="meta"))


# --- memory ----------------------------------------------------------------------------------------------------------


class Greedy(nn.Module):
    """Runs out of memory on more than ``most`` samples in training."""

    def __init__(self, most: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layer, self.most = nn.Linear(6, 2), most

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.training and len(inputs) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.layer(inputs)


def rows(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(count, 6, generator=generator), torch.arange(count) % 2) for _ in range(3)]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_batch_that_does_not_fit_is_split_to_the_same_effect(reduction: str, recwarn: pytest.WarningsRecorder) -> None:
    trained = []
    for most in (100, 3):
        model = Greedy(most)
        loss = nn.CrossEntropyLoss(reduction=reduction)
        example = {"train": rows(10), "validation": None, "example": (torch.zeros(1, 6),), "learning_rate": 0.01, "epochs": 2}
        finetune(model, task("cpu", model, loss=loss, **example), teacher=Greedy(100))
        trained.append(model)
    alike(*trained)
    told = [str(warning.message) for warning in recwarn if "does not fit" in str(warning.message)]
    assert len(told) == 1
    assert "batch norms see parts" in told[0]


def test_what_does_not_fit_at_all_is_one_clear_error() -> None:
    model = Greedy(0)
    with pytest.raises(TrainingError, match=r"does not fit into the memory of cpu: its batch was split into 4 parts of one sample"):
        finetune(model, task("cpu", model, train=rows(4), validation=None, example=(torch.zeros(1, 6),)))


# --- on a GPU --------------------------------------------------------------------------------------------------------


@needs_cuda
@pytest.mark.parametrize("work", [scored, tuned, rebuilt, tuned_graph, curves, gated, sparse])
@pytest.mark.parametrize("kind", [0, 1], ids=["images", "sequences"])
def test_a_gpu_computes_what_the_cpu_does(work: Callable[[Task], object], kind: int) -> None:
    wanted, found = work(kinds("cpu")[kind]), work(kinds("cuda")[kind])
    if isinstance(wanted, nn.Module):
        for one, other in zip(wanted.state_dict().values(), found.state_dict().values(), strict=True):  # type: ignore[attr-defined]
            assert other.device.type == "cpu"
            assert torch.allclose(one.float(), other.float(), rtol=0.05, atol=0.02)


@needs_cuda
def test_half_precision_on_a_gpu_trains_as_well() -> None:
    model = network()
    assert finetune(model, task("cuda", mixed_precision=True, epochs=4)).score == pytest.approx(100, abs=5)
