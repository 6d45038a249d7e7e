"""Which optimizer trains which network, and what a task can say about it."""

from __future__ import annotations

import functools
import math
import os

import pytest
import torch
from torch import nn

from edgeprune.budget import Budget
from edgeprune.errors import InputError, RecipeError
from edgeprune.graph import analyze
from edgeprune.search import Options
from edgeprune.search.request import RunRequest
from edgeprune.surgery import apply, plan_from_saliency
from edgeprune.task import Task
from edgeprune.tuning import finetune
from edgeprune.tuning.optimizer import settings_for


def data(count: int = 48, batch: int = 16, features: int = 6) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Two classes, told apart by the sign of the mean."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(count) % 2
    values = torch.randn(count, features, generator=generator) + (labels * 2 - 1).float()[:, None]
    return [(values[at : at + batch], labels[at : at + batch]) for at in range(0, count, batch)]


def mlp() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))


def task(model: nn.Module | None = None, **changes: object) -> Task:
    settings: dict[str, object] = {"train": data(), "epochs": 2, "name": "signs", "distillation": 0.0} | changes
    return Task(model or mlp(), settings.pop("example", (torch.zeros(1, 6),)), **settings)  # type: ignore[arg-type]


class Softmaxed(nn.Module):
    """Attention in plain code."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.Linear(6, 18)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        query, key, value = self.parts(inputs).chunk(3, -1)
        return torch.softmax(query @ key.transpose(-1, -2) / math.sqrt(6), -1) @ value


class Named(nn.Module):
    """Not attention, whatever its name says: a gate on channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.gate = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 4)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = self.norm(self.conv(inputs))
        return hidden * torch.softmax(self.gate(hidden.mean((2, 3))), 1)[:, :, None, None]


class Series(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells, self.head = nn.GRU(6, 8, batch_first=True), nn.Linear(8, 2)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.head(self.cells(inputs)[0][:, -1])


image, sequence = (torch.zeros(1, 3, 8, 8),), (torch.zeros(1, 5, 6),)


@pytest.mark.parametrize(
    ("model", "example", "kind", "optimizer", "rate"),
    [
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), image, "batch-normalised", "sgd", 0.02),
        (Named, image, "batch-normalised", "sgd", 0.02),
        (mlp, (torch.zeros(1, 6),), "plain", "sgd", 0.02),
        (lambda: nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6)), sequence, "layer-normalised", "adamw", 1e-4),
        (Softmaxed, sequence, "attention", "adamw", 1e-4),
        (lambda: nn.TransformerEncoderLayer(6, 2, 8, batch_first=True), sequence, "attention", "adamw", 1e-4),
        (Series, sequence, "recurrent", "adamw", 1e-3),
    ],
)
def test_the_kind_of_network_decides(model, example, kind: str, optimizer: str, rate: float) -> None:
    found = settings_for(made := model(), task(made, example=example))
    assert (found.kind, found.optimizer, found.learning_rate) == (kind, optimizer, rate)
    assert f"{kind} network" in found.text
    assert f"learning rate {rate:g}" in found.text


def test_a_cut_network_is_of_the_kind_that_it_was() -> None:
    model = Series().eval()
    analysis = analyze(model, sequence)
    plan = plan_from_saliency(analysis, {group.name: 1.0 + 0 * group.rows for group in analysis.groups}, {analysis.groups[0].name: 5})
    small = apply(model, analysis, plan, "graph").model
    assert settings_for(small, task(model, example=sequence)).kind == "recurrent"


def test_defaults_of_batch_normalised_networks_are_what_they_always_were() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    found = settings_for(model, task(model, example=image))
    assert (found.weight_decay, found.warmup, found.clip_norm, found.lr_schedule, found.ema) == (5e-4, 0.05, 5.0, "cosine", None)
    assert found.identity == {}, "checkpoints written before there was a choice are continued"


def test_what_the_task_says_holds() -> None:
    asked = task(Softmaxed(), example=sequence, optimizer="sgd", learning_rate=3e-3, weight_decay=0.1, warmup=0.3, clip_norm=0, ema=0.9)
    found = settings_for(asked.model, asked)
    assert (found.optimizer, found.learning_rate, found.weight_decay) == ("sgd", 3e-3, 0.1)
    assert (found.warmup, found.clip_norm, found.ema) == (0.3, 0.0, 0.9)
    assert settings_for(mlp(), task(optimizer="adamw")).learning_rate == 1e-3


def test_a_large_learning_rate_means_sgd() -> None:
    """Recipes that were written when there was no choice gave SGD's rates."""
    model = Series()
    assert settings_for(model, task(model, example=sequence, learning_rate=0.05)).optimizer == "sgd"
    assert settings_for(model, task(model, example=sequence, learning_rate=0.005)).optimizer == "adamw"


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", lambda parameters: torch.optim.RMSprop(parameters, lr=0.01)])
def test_every_optimizer_learns(optimizer: object) -> None:
    before = task(optimizer=optimizer, epochs=8, validation=data(), learning_rate=0.05 if optimizer == "sgd" else 0.02)
    result = finetune(mlp(), before)
    assert result.score is not None
    assert result.score > 95


def test_a_users_optimizer_keeps_its_rates_and_follows_the_schedule() -> None:
    seen: list[list[float]] = []

    class Watched(torch.optim.SGD):
        def step(self, closure=None):  # type: ignore[no-untyped-def,override]
            seen.append([group["lr"] for group in self.param_groups])
            return super().step(closure)

    def factory(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return Watched([{"params": parameters[:2], "lr": 0.1}, {"params": parameters[2:], "lr": 0.3}])

    finetune(mlp(), task(optimizer=factory, lr_schedule="linear", warmup=0.5, epochs=2))
    assert [pair[1] / pair[0] for pair in seen] == pytest.approx([3.0] * 5 + [3.0])
    assert [pair[0] for pair in seen] == pytest.approx([0.1 / 3, 0.2 / 3, 0.1, 0.1, 0.2 / 3, 0.1 / 3])
    seen.clear()
    finetune(mlp(), task(optimizer=factory, lr_schedule=lambda part: 1 - part**2, warmup=0, learning_rate=0.2, epochs=1))
    assert [rate for pair in seen for rate in pair] == pytest.approx([0.2, 0.2, *[0.2 * 8 / 9] * 2, *[0.2 * 5 / 9] * 2])


def test_label_smoothing_is_that_of_cross_entropy() -> None:
    losses = []
    for loss in (nn.functional.cross_entropy, nn.CrossEntropyLoss(), lambda o, t: nn.functional.cross_entropy(o, t, label_smoothing=0.2)):
        smoothing = 0.2 if len(losses) < 2 else 0.0
        losses.append([entry["loss"] for entry in finetune(mlp(), task(loss=loss, label_smoothing=smoothing)).history])
    assert losses[0] == losses[1] == losses[2]


def test_training_ends_with_the_average_of_the_weights() -> None:
    decay, weights = 0.5, []
    model = mlp()

    def keep(done: int, total: int, loss: float) -> None:
        weights.append(model[0].weight.detach().clone())

    finetune(model, task(ema=decay, epochs=2, warmup=0), on_progress=keep)
    average = mlp()[0].weight.detach()
    for step, weight in enumerate(weights):
        average = average.lerp(weight, 1 - min(decay, (1 + step) / (10 + step)))
    assert torch.allclose(model[0].weight, average, atol=1e-6)
    assert not torch.equal(model[0].weight, weights[-1])


def test_clipping_bounds_the_step() -> None:
    moved = []
    for norm in (1e-3, 0):
        model, before = mlp(), mlp()
        finetune(model, task(clip_norm=norm, epochs=1 / 3, warmup=0, weight_decay=0, learning_rate=1.0))
        changes = [(a - b).square().sum() for a, b in zip(model.parameters(), before.parameters(), strict=True)]
        moved.append(float(torch.stack(changes).sum().sqrt()))
    assert moved[0] == pytest.approx(1.9e-3, rel=1e-3), "a step of Nesterov momentum: 1 + 0.9 of the clipped gradient"
    assert moved[1] > 10 * moved[0]


@pytest.mark.parametrize("optimizer", ["adamw", lambda parameters: torch.optim.Adagrad(parameters, lr=0.01)])
def test_an_interrupted_training_continues_with_the_optimizers_state(tmp_path, optimizer: object) -> None:
    settings = {"optimizer": optimizer, "ema": 0.8, "epochs": 3}
    whole = mlp()
    finetune(whole, task(**settings))

    def stop(done: int, total: int, loss: float) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(mlp(), task(**settings), on_progress=stop, checkpoint=tmp_path / "c")
    continued = mlp()
    finetune(continued, task(**settings), checkpoint=tmp_path / "c")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), continued.parameters(), strict=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "adam"}, "optimizer of task signs is 'adam'"),
        ({"lr_schedule": "step"}, "lr_schedule of task signs is 'step'"),
        ({"learning_rate": -1.0}, "learning_rate of task signs is -1.0, not 0 or more"),
        ({"warmup": 2}, "warmup of task signs is 2, not between 0 and 1"),
        ({"ema": 1.0}, "ema of task signs is 1.0"),
        ({"label_smoothing": 0.1, "loss": lambda outputs, targets: outputs.sum()}, "needs cross-entropy"),
        ({"optimizer": lambda parameters: None}, "returned a NoneType"),
        ({"optimizer": lambda parameters: torch.optim.LBFGS(parameters)}, "returned a LBFGS"),
        ({"optimizer": lambda parameters: torch.optim.SGD(parameters, lr=-1)}, "raised ValueError"),
        ({"optimizer": torch.optim.AdamW, "weight_decay": 0.1}, "optimizer of its own"),
    ],
)
def test_impossible_settings_are_one_clear_error(changes: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        finetune(mlp(), task(**changes))


def test_options_take_the_place_of_the_tasks_settings() -> None:
    options = Options(optimizer="adamw", learning_rate=1e-3, lr_schedule="constant", warmup=0.2, clip_norm=2, label_smoothing=0.1, ema=0.99)
    found = settings_for(mlp(), options.applied(task(learning_rate=0.1)))
    assert (found.optimizer, found.learning_rate, found.lr_schedule) == ("adamw", 1e-3, "constant")
    assert (found.warmup, found.clip_norm, found.label_smoothing, found.ema) == (0.2, 2, 0.1, 0.99)
    with pytest.raises(InputError, match="unknown optimizer 'lion'"):
        Options(optimizer="lion")
    with pytest.raises(InputError, match="warmup"):
        Options(warmup=1.5)


def test_a_run_is_known_by_how_it_trains_but_not_by_its_device() -> None:
    def known(device: str = "cpu", **changes: object) -> object:
        options = Options(device=device, **changes.pop("options", {}))  # type: ignore[arg-type]
        return RunRequest(task(**changes), Budget(latency="50%"), profile="raspberry-pi-4", options=options).fingerprint

    plain = known()
    assert known("auto") == plain
    assert known(optimizer=functools.partial(torch.optim.RMSprop, lr=0.1)) != plain
    assert known(lr_schedule=lambda part: 1 - part) != plain
    assert known(options={"ema": 0.9}) != plain


def test_a_launcher_of_several_processes_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under torchrun or mpirun: a tuning in one of their processes is its own."""
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert finetune(mlp(), task()).steps == 6
    assert os.environ["WORLD_SIZE"] == "4"
