"""What makes a training step short, and that it changes nothing: the teacher's forms and memory, batch norms, losses read now and then."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from edgeprune.batches import as_batch
from edgeprune.errors import RecipeError, TrainingError, TrainingStoppedError
from edgeprune.task import Task
from edgeprune.tuning import finetune, recalibrate
from edgeprune.tuning.fusion import folded, joined
from edgeprune.tuning.losses import Losses
from edgeprune.tuning.norms import quick_norms
from edgeprune.tuning.teacher import Teacher

CPU = torch.device("cpu")


class Residual(nn.Module):
    """Convolutions, batch norms with statistics of their own, an addition, and an activation behind it."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.second, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.Linear(8, 4)
            self.norms = nn.ModuleList([nn.BatchNorm2d(8), nn.BatchNorm2d(8)])
            for norm in self.norms:
                nn.init.uniform_(norm.running_mean)
                nn.init.uniform_(norm.running_var, 0.5, 2)
                nn.init.uniform_(norm.weight)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.norms[0](self.first(inputs)))
        return self.last(torch.relu(self.norms[1](self.second(hidden)) + hidden).mean((2, 3)))


class Chained(Residual):
    """Additions to what nobody needs afterwards, to what is needed again, and to what the convolution itself reads."""

    def __init__(self, again: bool = False) -> None:
        super().__init__()
        self.again = again

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        start = torch.relu(self.first(inputs))
        middle = torch.relu(self.second(start))
        end = torch.relu(self.second(middle) + start)
        return self.last((torch.relu(self.second(end) + end) + (start if self.again else 0)).mean((2, 3)))


class Branching(Residual):
    """Its code depends on its inputs: it cannot be traced."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return super().forward(inputs if bool(inputs.isfinite().all()) else inputs.nan_to_num())


def images(count: int = 6) -> torch.Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", [Residual, Branching])
@pytest.mark.parametrize(("dtype", "close"), [(None, 1e-3), (torch.bfloat16, 2e-2)])
def test_a_teacher_answers_as_the_model_does(kind: type[nn.Module], dtype: torch.dtype | None, close: float) -> None:
    model = kind().eval()
    teacher = Teacher(model, as_batch((images(), None)), CPU, dtype, remember=False)
    with torch.no_grad():
        wanted = model(images(5))
    found = teacher(as_batch((images(5), None)))
    assert found.dtype == torch.float32
    assert float((found - wanted).abs().max()) <= close * float(wanted.abs().max())
    assert not found.is_inference(), "gradients are computed with it"
    folded = not any(isinstance(module, nn.BatchNorm2d) for module in teacher.model.modules())
    assert folded == (kind is Residual)
    assert all(isinstance(norm, nn.BatchNorm2d) for norm in model.norms), "the model itself stays as it is"  # type: ignore[union-attr]


@pytest.mark.parametrize("again", [False, True])
def test_a_teacher_adds_over_what_nobody_needs(again: bool) -> None:
    model = Chained(again).eval()
    quick = folded(model)
    assert quick is not None
    assert joined(quick)
    over = [module.over for module in quick.modules() if isinstance(getattr(module, "over", None), bool)]
    assert over == [False, False, not again, False], "the last convolution reads what is added to it"
    with torch.no_grad():
        torch.testing.assert_close(quick(images().contiguous(memory_format=torch.channels_last)), model(images()), rtol=1e-4, atol=1e-4)


class Counting(nn.Module):
    """Counts how often it is called in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.calls = nn.Linear(6, 2), [0]

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.calls[0] += not self.training
        return self.layer(inputs)

    def __deepcopy__(self, memo: dict[int, object]) -> Counting:
        other = Counting()
        other.load_state_dict(self.state_dict())
        other.calls = self.calls
        return other.train(self.training)


def taught(train: object, epochs: int = 3) -> int:
    """How often the teacher is asked."""
    teacher = Counting()
    task = Task(nn.Linear(6, 2), (torch.zeros(1, 6),), train=train, epochs=epochs, distillation=1.0)  # type: ignore[arg-type]
    finetune(nn.Linear(6, 2), task, teacher=teacher)
    return teacher.calls[0]


def test_a_teacher_is_asked_once_about_samples_that_repeat() -> None:
    values = torch.randn(12, 6, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(12) % 2
    fixed = [(values[at : at + 4], labels[at : at + 4]) for at in (0, 4, 8)]
    shuffled = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(values, labels), 4, shuffle=True)
    once = taught(fixed, 1)
    assert taught(fixed) == taught(shuffled) == once

    class Augmented:
        def __len__(self) -> int:
            return 3

        def __iter__(self):  # type: ignore[no-untyped-def]
            return iter([(inputs + torch.randn(inputs.shape), targets) for inputs, targets in fixed])

    assert taught(Augmented()) == once + 6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize(
    ("kind", "shape", "last"),
    [
        (nn.BatchNorm2d, (6, 11, 8, 8), True),
        (nn.BatchNorm2d, (5, 16, 7, 7), True),
        (nn.BatchNorm2d, (6, 11, 8, 8), False),
        (nn.BatchNorm1d, (7, 5), False),
        (nn.BatchNorm1d, (8, 5), False),
        (nn.BatchNorm1d, (4, 3, 9), False),
        (nn.BatchNorm3d, (2, 3, 4, 4, 4), False),
    ],
)
def test_quick_batch_norms_compute_what_pytorchs_do(
    kind: type[nn.Module], shape: tuple[int, ...], last: bool, momentum: float | None, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(0)
    usual = kind(shape[1], momentum=momentum)
    for parameter in usual.parameters():
        nn.init.normal_(parameter, generator=generator)
    quick = copy.deepcopy(usual)
    value = (torch.randn(shape, generator=generator) * 3 + 2).to(dtype)
    value = value.contiguous(memory_format=torch.channels_last) if last else value
    gradient = torch.randn(shape, generator=generator).to(dtype)
    results = []
    for module in (usual, quick):
        given = value.detach().requires_grad_()
        with quick_norms(module) if module is quick else torch.enable_grad():
            for _ in range(2):
                output = module(given)
        output.backward(gradient)
        results.append([output, given.grad, *(parameter.grad for parameter in module.parameters()), *module.buffers()])
        assert output.stride() == value.stride()
    for one, other in zip(*results, strict=True):
        scale = float(one.abs().max())
        assert float((one.float() - other.float()).abs().max()) <= (1e-5 if dtype == torch.float32 else 1e-2) * max(scale, 1e-3)
    assert "forward" not in vars(quick)


def test_norms_in_evaluation_and_frozen_statistics_stay_pytorchs() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3)).train()
    model[1].eval()
    before = copy.deepcopy(model[1].state_dict())
    with quick_norms(model):
        model(images())
        with pytest.raises(ValueError, match="4D"):
            model(torch.zeros(2, 3))
    assert all(torch.equal(before[name], value) for name, value in model[1].state_dict().items())
    assert not torch.equal(model[0].running_mean, torch.zeros(3))


def test_losses_are_read_now_and_then_and_the_bad_step_is_named() -> None:
    losses = Losses("blobs", 100, every=4)
    for step in range(4):
        losses.add(step, 0, 0.1, torch.tensor(float(step)), torch.tensor(1.0))
        assert losses.last != losses.last if step < 3 else losses.last == 3.0
    losses.add(4, 0, 0.1, torch.tensor(float("inf")), torch.tensor(1.0))
    with pytest.raises(TrainingError, match="the loss of blobs became inf at step 5 of 100"):
        losses.taken()
    skipping = Losses("blobs", 100, every=1, skips=True)
    skipping.add(0, 0, 0.1, torch.tensor(2.0), torch.tensor(float("inf")))
    assert skipping.taken() == [2.0], "scaled gradients overflow now and then"


def test_what_a_quick_norm_gives_may_be_changed_in_place() -> None:
    class Residual(nn.Module):
        """As torchvision's: ``out += identity`` behind a batch norm."""

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.norm(self.conv(x))
            out += x
            return out

    torch.manual_seed(0)
    model = Residual().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.randn(8, 4, 8, 8).contiguous(memory_format=torch.channels_last)
    wanted = torch.autograd.grad(model(images).square().sum(), model.conv.weight)[0]
    with quick_norms(model):
        found = torch.autograd.grad(model(images).square().sum(), model.conv.weight)[0]
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("size", [1, 2])
def test_a_last_batch_of_one_sample_is_no_statistics(size: int) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    first, last = torch.randn(8, 4), torch.randn(size, 4)
    used = recalibrate(model, [(first, None), (last, None)])
    assert used == size
    if size == 1:
        torch.testing.assert_close(model[1].running_mean, model[0](first).mean(0))


def test_batches_of_one_sample_only_are_named() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    with pytest.raises(RecipeError, match="more than 1 value per channel") as caught:
        recalibrate(model, [(torch.randn(1, 4), None)])
    assert "drop_last" in str(caught.value.remedy)
    pictures = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    assert recalibrate(pictures, [(torch.randn(1, 3, 4, 4), None)] * 3) == 3


def test_training_on_a_last_batch_of_one_sample_says_what_to_do() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    data = [(torch.randn(8, 4), torch.zeros(8, dtype=torch.int64)), (torch.randn(1, 4), torch.zeros(1, dtype=torch.int64))]
    task = Task(name="one", model=model, example_inputs=(torch.randn(2, 4),), train=data, loss=nn.functional.cross_entropy)
    with pytest.raises(TrainingStoppedError, match="at step 2") as caught:
        finetune(model, task, epochs=1)
    assert "drop_last" in str(caught.value.remedy)
