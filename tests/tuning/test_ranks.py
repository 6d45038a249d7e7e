"""One tuning by two processes on the CPU: the result of one, whatever happens to them."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from blobs import blobs as made_blobs
from torch import nn

from edgeprune.errors import EdgepruneError, RecipeError, TrainingError, may_succeed
from edgeprune.task import Task, load_recipe
from edgeprune.tuning import finetune
from edgeprune.tuning.sparsify import sparsify

blobs = partial(made_blobs, 43, 8)


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2),
        )  # fmt: skip


def task(device: str, **changes: object) -> Task:
    settings: dict[str, object] = {"train": blobs(), "validation": blobs(), "epochs": 1.5, "learning_rate": 0.05, "mixed_precision": False}
    return Task(network(), (torch.zeros(1, 3, 8, 8),), device=device, name="blobs", **settings | changes)  # type: ignore[arg-type]


def alike(first: nn.Module, second: nn.Module) -> None:
    for (name, one), other in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.allclose(one.float(), other.float(), rtol=1e-4, atol=1e-5), name


class Epochs:
    """Another order each epoch, told by ``set_epoch``; it notes who reads it."""

    def __init__(self, notes: Path) -> None:
        self.batches, self.epoch, self.notes = blobs(), 0, notes

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self):  # type: ignore[no-untyped-def]
        (self.notes / f"{os.environ.get('RANK', 'alone')}-{os.getpid()}").touch()
        order = torch.randperm(len(self.batches), generator=torch.Generator().manual_seed(self.epoch))
        return iter([self.batches[at] for at in order.tolist()])


def test_two_ranks_train_what_one_process_does(tmp_path) -> None:
    """With batch norms over whole batches, an odd last batch, an order for each epoch, a sum as the loss, and a closure in the task."""
    factor = 0.1

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return factor * nn.functional.cross_entropy(outputs, targets, reduction="sum")

    found = []
    for device in ("cpu", "cpu:2"):
        model, steps, epochs = network(), [], []
        result = finetune(
            model,
            task(device, train=Epochs(tmp_path), loss=loss, ema=0.9),
            teacher=network(),
            on_progress=lambda *step: steps.append(step),  # noqa: B023
            on_epoch=epochs.append,
        )
        found.append((model, result, steps, epochs))
    (one, alone, alone_steps, _), (two, shared, shared_steps, shared_epochs) = found
    alike(one, two)
    assert shared.score == alone.score
    assert shared.steps == alone.steps == len(shared_steps) == 9
    assert [step[2] for step in shared_steps] == pytest.approx([step[2] for step in alone_steps], rel=1e-4)
    assert [entry["loss"] for entry in shared.history[1:]] == pytest.approx([entry["loss"] for entry in alone.history[1:]], rel=1e-4)
    assert shared_epochs == shared.history[1:]
    assert {path.name.partition("-")[0] for path in tmp_path.iterdir()} == {"alone", "0", "1"}


RECIPE = """
import torch
from torch import nn
from _beside import Gate
from edgeprune import Task

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.gate, self.last = nn.Linear(6, 8), Gate(), nn.Linear(8, 2)
    def forward(self, inputs):
        return self.last(self.gate(self.first(inputs)))

def task():
    open(__file__ + ".ran", "a").write("x")
    torch.manual_seed(0)
    data = [(torch.randn(8, 6), torch.arange(8) % 2) for _ in range(3)]
    return Task(Net(), (torch.zeros(1, 6),), train=data, epochs=1, device="cpu:2", optimizer=lambda p: torch.optim.Adam(p, lr=1e-2))
"""

BESIDE = """
import torch
from torch import nn

class Gate(nn.Module):
    def forward(self, inputs):
        return torch.relu(inputs)
"""


@pytest.mark.soak
def test_a_recipe_is_trained_as_it_is_and_runs_once(tmp_path: Path) -> None:
    (tmp_path / "some_recipe.py").write_text(RECIPE)
    (tmp_path / "_beside.py").write_text(BESIDE)
    made = load_recipe(tmp_path / "some_recipe.py")
    before = made.model.first.weight.detach().clone()
    assert finetune(made.model, made).steps == 3
    assert not torch.equal(made.model.first.weight, before)
    assert (tmp_path / "some_recipe.py.ran").read_text() == "x"


@pytest.mark.soak
def test_a_rank_that_is_killed_is_named_and_one_process_continues(tmp_path: Path) -> None:
    whole, continued = network(), network()
    finetune(whole, task("cpu", epochs=3))
    notes = tmp_path / "notes"
    notes.mkdir()

    def kill(done: int, total: int, loss: float) -> None:
        if done == 8:  # in the second epoch
            (process,) = (int(path.name.partition("-")[2]) for path in notes.iterdir() if path.name.startswith("1-"))
            os.kill(process, signal.SIGKILL)

    begun = time.monotonic()
    with pytest.raises(TrainingError, match=r"rank 1 of 2 \(process \d+\) was ended by SIGKILL") as caught:
        finetune(network(), task("cpu:2", epochs=3, train=Noted(notes)), checkpoint=tmp_path / "c", on_progress=kill)
    assert may_succeed(caught.value)
    assert time.monotonic() - begun < 300
    finetune(continued, task("cpu", epochs=3), checkpoint=tmp_path / "c")
    alike(whole, continued)


class Noted:
    """The same batches always; it notes who reads them."""

    def __init__(self, notes: Path) -> None:
        self.batches, self.notes = blobs(), notes

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self):  # type: ignore[no-untyped-def]
        (self.notes / f"{os.environ.get('RANK', 'alone')}-{os.getpid()}").touch()
        return iter(self.batches)


class Broken(Noted):
    """Raises in one rank only."""

    def __iter__(self):  # type: ignore[no-untyped-def]
        for place, batch in enumerate(self.batches):
            if place == 2 and os.environ.get("RANK") == "1":
                raise OSError("disk is gone")
            yield batch


def exits(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    if os.environ.get("RANK") == "1":
        print("out of luck", flush=True)
        os._exit(3)
    return nn.functional.cross_entropy(outputs, targets)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        (lambda folder: {"train": Broken(folder)}, RecipeError, "the training data of task blobs raised OSError at batch 3: disk is gone"),
        (lambda folder: {"loss": exits}, TrainingError, r"rank 1 of 2 \(process \d+\) ended with exit status 3: out of luck"),
        (
            lambda folder: {"learning_rate": 1e30, "clip_norm": 0, "lr_schedule": "constant", "warmup": 0},
            TrainingError,
            "of blobs became .* at step",
        ),
        (lambda folder: {"train": Held(folder)}, RecipeError, r"task\.train cannot be sent to other processes: .*lock"),
    ],
    ids=["data", "exit", "not-finite", "not-picklable"],
)
def test_what_breaks_in_a_rank_is_one_clear_error(
    changes: Callable[[Path], dict[str, object]], kind: type[EdgepruneError], message: str, tmp_path: Path
) -> None:
    with pytest.raises(kind) as caught:
        finetune(network(), task("cpu:2", **changes(tmp_path)))
    assert re.search(message, caught.value.message)


class Held(Noted):
    """Cannot be pickled."""

    def __init__(self, notes: Path) -> None:
        super().__init__(notes)
        import threading

        self.lock = threading.Lock()


@pytest.mark.soak
def test_a_training_that_makes_sparse_is_shared_too() -> None:
    found = []
    for device in ("cpu", "cpu:2"):
        model = network()
        assert sparsify(model, task(device, epochs=2), 0.5, teacher=network()).sparsity == pytest.approx(0.5, abs=0.1)
        found.append(model)
    alike(*found)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_gpus_train_what_one_does() -> None:
    one, two = network(), network()
    finetune(one, task("cuda:0"))
    finetune(two, task("cuda:0,cuda:1"))
    for first, second in zip(one.state_dict().values(), two.state_dict().values(), strict=True):
        assert torch.allclose(first.float(), second.float(), rtol=1e-2, atol=1e-3)
