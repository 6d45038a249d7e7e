"""Fine-tuning, batch-norm recalibration and scoring, on models small enough to know the answer."""

from __future__ import annotations

import copy
import random
from functools import partial

import numpy as np
import pytest
import torch
from blobs import blobs as made_blobs
from torch import nn

from edgeprune.errors import CheckpointError, RecipeError, TrainingError
from edgeprune.task import Task
from edgeprune.tuning import finetune, recalibrate, score

blobs = partial(made_blobs, 96, 16)


def network(dropout: float = 0.0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(dropout),
            nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2),
        )  # fmt: skip


def task(**changes: object) -> Task:
    settings: dict[str, object] = {"train": blobs(), "validation": blobs(), "epochs": 3, "learning_rate": 0.1, "name": "blobs"} | changes
    return Task(settings.pop("model", network()), (torch.zeros(1, 3, 8, 8),), **settings)  # type: ignore[arg-type]


def same(left: nn.Module, right: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left.state_dict().values(), right.state_dict().values(), strict=True))


class Shuffled:
    """Batches in an order of their own each epoch."""

    def __init__(self) -> None:
        self.batches, self.epoch, self.told = blobs(), 0, []

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.told.append(epoch)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self):
        order = torch.randperm(len(self.batches), generator=torch.Generator().manual_seed(self.epoch))
        return iter([self.batches[at] for at in order.tolist()])


# --- scoring ---------------------------------------------------------------------------------------------------------


def test_score_weights_batches_by_their_size() -> None:
    model = nn.Identity()
    right, wrong = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    validation = [(right.expand(9, 2), torch.zeros(9, dtype=torch.long)), (wrong, torch.zeros(1, dtype=torch.long))]
    assert score(model, task(model=model, validation=validation)) == pytest.approx(90.0)


def test_score_uses_evaluate_in_evaluation_mode_without_gradients() -> None:
    seen = []

    def evaluate(model: nn.Module) -> float:
        seen.append((model.training, torch.is_grad_enabled()))
        return 7.5

    model = network().train()
    model[1].eval()
    assert score(model, task(evaluate=evaluate)) == 7.5
    assert seen == [(False, False)]
    assert model.training
    assert not model[1].training


def test_score_that_is_not_a_number_is_an_error_naming_the_metric() -> None:
    with pytest.raises(TrainingError, match="F1 of blobs is nan"):
        score(network(), task(evaluate=lambda model: float("nan"), metric_name="F1"))


def test_a_task_that_cannot_score_is_an_error() -> None:
    with pytest.raises(RecipeError, match="cannot be scored"):
        score(network(), task(validation=None))
    with pytest.raises(RecipeError, match="no batches"):
        score(network(), task(validation=[]))


def test_validation_data_that_does_not_fit_is_one_clear_error() -> None:
    with pytest.raises(TrainingError, match="scoring blobs raised RuntimeError") as caught:
        score(network(), task(validation=[(torch.zeros(2, 5, 8, 8), torch.zeros(2))]))
    assert caught.value.remedy


# --- batch norm ------------------------------------------------------------------------------------------------------


def test_recalibration_gives_the_plain_average_of_the_batches_statistics() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3, momentum=0.3), nn.Dropout(0.5))
    model[0].running_mean.fill_(99)
    batches = blobs()
    assert recalibrate(model, batches, limit=4) == 4
    used = [images for images, _ in batches[:4]]
    assert torch.allclose(model[0].running_mean, torch.stack([images.mean((0, 2, 3)) for images in used]).mean(0), atol=1e-6)
    assert torch.allclose(model[0].running_var, torch.stack([images.var((0, 2, 3)) for images in used]).mean(0), atol=1e-5)


def test_recalibration_restores_momentum_and_modes_and_leaves_weights() -> None:
    model = network().eval()
    model[1].momentum = 0.3
    model[3].train()
    weights = copy.deepcopy([parameter.detach() for parameter in model.parameters()])
    recalibrate(model, blobs())
    assert model[1].momentum == 0.3
    assert [module.training for module in model] == [False, False, False, True, False, False, False, False, False]
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))


def test_recalibration_without_batch_norm_or_batches_touches_nothing() -> None:
    plain, normed = nn.Linear(3, 2), network()
    before = copy.deepcopy(normed)
    assert recalibrate(plain, [(torch.full((2, 3), float("nan")), None)]) == 0
    assert recalibrate(normed, []) == 0
    assert same(normed, before)


def test_recalibration_works_on_a_graph_module() -> None:
    model = torch.fx.symbolic_trace(network())
    assert recalibrate(model, blobs(), limit=2) == 2
    assert not torch.equal(model.get_submodule("1").running_mean, torch.zeros(8))


# --- fine-tuning -----------------------------------------------------------------------------------------------------


def test_finetuning_learns_and_reports_its_history() -> None:
    steps = []
    job = task()
    result = finetune(job.model, job, on_progress=lambda *step: steps.append(step))
    assert result.before is not None
    assert result.score is not None
    assert result.score >= 95 > result.before
    assert result.score == score(job.model, job)
    assert [step[:2] for step in steps] == [(done, 18) for done in range(1, 19)]
    assert [(entry["epoch"], entry["step"]) for entry in result.history] == [(0, 0), (1, 6), (2, 12), (3, 18)]
    assert result.history[1]["loss"] == pytest.approx(np.mean([step[2] for step in steps[:6]]))
    assert result.steps == 18


def test_half_an_epoch_is_half_the_batches() -> None:
    job = task()
    assert finetune(job.model, job, epochs=0.5).steps == 3
    assert finetune(job.model, job, epochs=1.5).steps == 9


def test_no_epochs_only_recalibrate() -> None:
    job = task()
    weights = copy.deepcopy(list(job.model.parameters()))
    job.model[1].running_mean.fill_(50)
    result = finetune(job.model, job, epochs=0)
    assert result.steps == 0
    assert job.model[1].running_mean.abs().max() < 5
    assert all(torch.equal(a, b) for a, b in zip(weights, job.model.parameters(), strict=True))


def test_only_the_teacher_matters_at_full_distillation() -> None:
    """With wrong labels and distillation 1, the student follows the teacher, who knows better."""
    good = task()
    finetune(good.model, good, epochs=4)
    wrong = [(images, 1 - labels) for images, labels in blobs()]
    student = task(train=wrong, distillation=1.0, epochs=6)
    teacher_before = copy.deepcopy(good.model)
    assert finetune(student.model, student, teacher=good.model).score >= 95
    assert same(good.model, teacher_before)
    assert all(parameter.requires_grad for parameter in good.model.parameters())
    unled = task(train=wrong, distillation=1.0, epochs=6)
    assert finetune(unled.model, unled).score <= 5


def test_regression_distils_by_squared_error_and_structures_do_not() -> None:
    data = [(torch.randn(16, 3, generator=torch.Generator().manual_seed(seed)), torch.zeros(16, 1)) for seed in range(4)]
    teacher = nn.Linear(3, 1)

    def likeness(model: nn.Module) -> float:
        return -(model(data[0][0]) - teacher(data[0][0])).abs().max().item()

    job = Task(
        nn.Linear(3, 1), (torch.zeros(1, 3),), train=data, evaluate=likeness,
        loss=nn.functional.mse_loss, distillation=1.0, epochs=40, learning_rate=0.1, weight_decay=0.0,
    )  # fmt: skip
    assert finetune(job.model, job, teacher=teacher).score > -0.01

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(3, 1)

        def forward(self, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"out": self.body(inputs)}

    def loss(outputs: dict[str, torch.Tensor], targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.mse_loss(outputs["out"], targets)

    job = Task(Named(), (torch.zeros(1, 3),), train=data, loss=loss, epochs=1)
    result = finetune(job.model, job, teacher=Named())
    assert (result.steps, result.score) == (4, None)


def test_frozen_parameters_stay_and_biases_do_not_decay() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    frozen, bias = model[0].weight.clone(), model[1].bias.detach().clone()
    weight = model[1].weight.detach().clone()
    batches = [(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long))]
    job = Task(model, (torch.zeros(1, 3),), train=batches, loss=lambda outputs, targets: outputs.sum() * 0, weight_decay=0.1, epochs=5)
    finetune(model, job)
    assert torch.equal(model[0].weight, frozen)
    assert torch.equal(model[1].bias, bias)
    assert (model[1].weight.abs() < weight.abs()).all()


def test_layout_modes_and_global_states_are_given_back() -> None:
    job = task(model=network(dropout=0.2))
    job.model.eval()
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    finetune(job.model, job, epochs=1)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert random.getstate() == states[2]
    assert (torch.get_num_threads(), torch.get_default_dtype()) == (threads, dtype)
    assert not any(module.training for module in job.model.modules())
    assert all(parameter.is_contiguous() and parameter.dtype == torch.float32 for parameter in job.model.parameters())


def test_the_same_seed_gives_the_same_model_and_another_seed_another() -> None:
    results = []
    for seed in (0, 0, 1):
        job = task(model=network(dropout=0.3), epochs=1)
        finetune(job.model, job, seed=seed)
        results.append(job.model)
    assert same(results[0], results[1])
    assert not same(results[0], results[2])


def test_training_data_gets_the_epoch() -> None:
    job = task(train=Shuffled())
    finetune(job.model, job)
    assert job.train.told == [0, 1, 2, 0]


def test_a_user_fit_replaces_the_training() -> None:
    def fit(model: nn.Module) -> None:
        assert model.training
        model[8].bias.data.fill_(3.0)

    job = task(fit=fit, train=None)
    job.model.eval()
    result = finetune(job.model, job)
    assert job.model[8].bias.tolist() == [3.0, 3.0]
    assert not job.model.training
    assert result.score is not None


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_a_number_names_step_epoch_and_rate() -> None:
    calls = []

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return nn.functional.cross_entropy(outputs, targets) * (float("nan") if len(calls) == 9 else 1.0)

    job = task(loss=loss)
    with pytest.raises(TrainingError, match=r"loss of blobs became nan at step 9 of 18 \(epoch 2, learning rate 0\.0\d+\)") as caught:
        finetune(job.model, job)
    assert "learning_rate" in caught.value.remedy
    assert all(parameter.isfinite().all() for parameter in job.model.parameters())


def test_data_that_does_not_fit_the_loss_is_one_clear_error() -> None:
    job = task(train=[(images, labels.float()[:3]) for images, labels in blobs()])
    with pytest.raises(TrainingError, match=r"the loss of blobs raised .* at step 1"):
        finetune(job.model, job)


@pytest.mark.parametrize("train", [None, [], iter(blobs())], ids=["none", "empty", "once only"])
def test_nothing_to_train_on_is_an_error(train: object) -> None:
    with pytest.raises(RecipeError, match="training data"):
        finetune(network(), task(train=train))


def test_impossible_settings_are_errors() -> None:
    job = task(distillation=1.5)
    with pytest.raises(RecipeError, match=r"distillation of task blobs is 1\.5"):
        finetune(job.model, job)
    job = task()
    with pytest.raises(RecipeError, match="epochs of task blobs is -1"):
        finetune(job.model, job, epochs=-1)


# --- checkpoints -----------------------------------------------------------------------------------------------------


class Stop(Exception):
    """As a kill: raised from the progress callback."""


def stop_at(step: int):
    def callback(done: int, total: int, loss: float) -> None:
        if done == step:
            raise Stop

    return callback


def test_an_interrupted_fine_tuning_continues_to_the_same_result(tmp_path) -> None:
    path = tmp_path / "tune.safetensors"
    whole = task(model=network(dropout=0.2), train=Shuffled())
    expected = finetune(whole.model, whole, teacher=network())
    first = task(model=network(dropout=0.2), train=Shuffled())
    with pytest.raises(Stop) as caught:
        finetune(first.model, first, teacher=network(), checkpoint=path, on_progress=stop_at(14))
    assert f"{path} holds the state after epoch 2." in caught.value.__notes__
    second, steps = task(model=network(dropout=0.2), train=Shuffled()), []
    result = finetune(second.model, second, teacher=network(), checkpoint=path, on_progress=lambda *step: steps.append(step[0]))
    assert steps == list(range(13, 19))
    assert same(second.model, whole.model)
    assert result == expected


def test_a_finished_fine_tuning_is_not_repeated(tmp_path) -> None:
    path = tmp_path / "tune.safetensors"
    job = task()
    expected = finetune(job.model, job, checkpoint=path)
    again = task()
    assert finetune(again.model, again, checkpoint=path, on_progress=stop_at(1)) == expected
    assert same(again.model, job.model)
    assert [file.name for file in tmp_path.iterdir()] == ["tune.safetensors"]


def test_a_finished_user_fit_is_not_repeated(tmp_path) -> None:
    calls = []
    job = task(fit=lambda model: calls.append(model[8].bias.data.fill_(3.0)))
    expected = finetune(job.model, job, checkpoint=tmp_path / "fit")
    again = task(fit=lambda model: calls.append(None))
    assert finetune(again.model, again, checkpoint=tmp_path / "fit") == expected
    assert len(calls) == 1
    assert same(again.model, job.model)


def test_checkpoints_of_other_jobs_and_damaged_ones_are_refused(tmp_path) -> None:
    path = tmp_path / "tune.safetensors"
    job = task()
    finetune(job.model, job, checkpoint=path)
    with pytest.raises(CheckpointError, match=r"its learning_rate is 0\.1, not 0\.2"):
        finetune(network(), task(learning_rate=0.2), checkpoint=path)
    narrow = network()
    narrow[0], narrow[1], narrow[4] = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 8, 3)
    with pytest.raises(CheckpointError, match=r"0\.weight has shape \(8, 3, 3, 3\) there and \(4, 3, 3, 3\) here"):
        finetune(narrow, task(), checkpoint=path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CheckpointError, match="damaged"):
        finetune(network(), task(), checkpoint=path)


def test_weights_shared_by_two_layers_survive_a_checkpoint(tmp_path) -> None:
    def tied() -> nn.Sequential:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        model[1].weight = model[0].weight
        return model

    data = [(torch.ones(4, 3), torch.zeros(4, dtype=torch.long))]
    jobs = [Task(tied(), (torch.zeros(1, 3),), train=data, epochs=4) for _ in range(2)]
    finetune(jobs[0].model, jobs[0])
    with pytest.raises(Stop):
        finetune(jobs[1].model, jobs[1], checkpoint=tmp_path / "tied", on_progress=stop_at(3))
    resumed = tied()
    finetune(resumed, jobs[1], checkpoint=tmp_path / "tied")
    assert same(resumed, jobs[0].model)
    assert resumed[0].weight is resumed[1].weight
