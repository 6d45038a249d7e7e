"""Data that a user may bring: what can be read only once, raises, never ends, or are no pairs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, IterableDataset

import edgeprune
from edgeprune.errors import CaptureError, RecipeError, TrainingError
from edgeprune.task import Task
from edgeprune.tuning import finetune, score
from edgeprune.tuning.rehearse import first_batch, rehearse

EXAMPLE = (torch.zeros(1, 3, 8, 8),)


def batch() -> tuple[Tensor, Tensor]:
    return torch.randn(4, 3, 8, 8), torch.arange(4) % 2


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)).eval()


def task(train: Any, **given: Any) -> Task:
    return Task(network(), EXAMPLE, train=train, name="mine", **{"epochs": 1, **given})


class Endless:
    """Batches for ever, with no length."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        held = batch()
        while True:
            yield held


class Stream(IterableDataset[tuple[Tensor, int]]):
    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        for place in range(6):
            yield torch.full((3, 8, 8), float(place)), place % 2


class Broken(Dataset[tuple[Tensor, int]]):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        if place == 5:
            raise ValueError("image 5 is damaged")
        return torch.zeros(3, 8, 8), place % 2


class Once:
    """An object of its own that ends for good."""

    def __init__(self) -> None:
        self.left = [batch(), batch()]

    def __iter__(self) -> Once:
        return self

    def __next__(self) -> tuple[Tensor, Tensor]:
        if not self.left:
            raise StopIteration
        return self.left.pop()


@pytest.mark.parametrize("what", ["train", "validation"])
@pytest.mark.parametrize(
    "make", [lambda: (batch() for _ in range(3)), lambda: map(id, [1]), lambda: iter([batch()]), lambda: zip([1], [2], strict=True)]
)
def test_what_can_be_read_only_once_is_refused_at_once(make: Any, what: str) -> None:
    with pytest.raises(RecipeError, match=r"the (training|validation) data .* can be read only once") as raised:
        Task(network(), EXAMPLE, **{what: make()})
    assert "DataLoader" in str(raised.value.remedy)


def test_what_cannot_be_iterated_is_refused_at_once() -> None:
    with pytest.raises(RecipeError, match="a int, which cannot be iterated"):
        task(3)


def test_data_that_end_for_good_are_named_before_anything_is_trained() -> None:
    with pytest.raises(RecipeError, match="no batches"):
        finetune(network(), task(Once()), epochs=2)


@pytest.mark.parametrize("workers", [0, 1])
def test_what_the_data_raise_is_said_without_a_traceback(workers: int) -> None:
    job = task(DataLoader(Broken(), batch_size=2, num_workers=workers))
    with pytest.raises(RecipeError) as raised:
        finetune(job.model, job)
    assert raised.value.message == "the training data of task mine raised ValueError at batch 3: image 5 is damaged"


def test_an_epoch_broken_off_by_its_data_continues_where_it_was(tmp_path) -> None:
    class Moody:
        broken = False

        def __len__(self) -> int:
            return 2

        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            for place in range(2):
                if self.broken and place:
                    raise OSError("the disk is gone")
                yield torch.full((4, 3, 8, 8), float(place)), torch.arange(4) % 2

    straight = network()
    finetune(straight, task(Moody(), epochs=2))
    data, model = Moody(), network()
    job = task(data, epochs=2)

    with pytest.raises(RecipeError, match="the disk is gone"):
        finetune(model, job, checkpoint=tmp_path / "tune", on_progress=lambda done, *_: setattr(data, "broken", done >= 2))
    data.broken = False
    again = network()
    assert finetune(again, job, checkpoint=tmp_path / "tune").steps == 4
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), straight.state_dict().values(), strict=True))


def test_endless_data_need_the_length_of_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeprune.task.MOST_BATCHES", 50)
    with pytest.raises(RecipeError, match="have not ended after 50 batches") as raised:
        finetune(network(), task(Endless()))
    assert "steps_per_epoch" in str(raised.value.remedy)
    assert finetune(network(), task(Endless(), steps_per_epoch=3, epochs=2)).steps == 6
    with pytest.raises(RecipeError, match=r"validation data .* have not ended"):
        score(network(), Task(network(), EXAMPLE, validation=Endless()))
    with pytest.raises(RecipeError, match="steps_per_epoch is 0"):
        task(Endless(), steps_per_epoch=0)


def test_a_loader_of_a_stream_has_no_length_and_is_counted() -> None:
    job = task(DataLoader(Stream(), batch_size=2))
    assert job.epoch_length() == 3
    assert finetune(job.model, job).steps == 3


def test_an_epoch_may_be_shorter_than_the_data() -> None:
    assert finetune(network(), task([batch() for _ in range(5)], steps_per_epoch=2, epochs=2)).steps == 4


def test_a_batch_that_is_not_a_pair_is_named() -> None:
    job = task([batch(), (torch.zeros(1), torch.zeros(1), torch.zeros(1))])
    with pytest.raises(RecipeError, match=r"a tuple of 3 .*, not \(inputs, targets\)"):
        finetune(job.model, job)


class TwoOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.aux = nn.Conv2d(3, 8, 3), nn.Linear(8, 2), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Any:
        x = self.body(x).relu().mean((2, 3))
        return {"out": self.head(x), "aux": self.aux(x)} if self.training else self.head(x)


def test_a_loss_that_does_not_take_what_training_returns_is_named_before_anything_is_done(tmp_path) -> None:
    job = Task(TwoOutputs().eval(), EXAMPLE, train=[batch()], validation=[batch()], name="mine", epochs=1)
    with pytest.raises(TrainingError, match="returns in training, a dict \\(out, aux\\)") as raised:
        edgeprune.prune(job, profile="raspberry-pi-4", budget=edgeprune.Budget(macs="60%"), runs=tmp_path)
    assert "takes all of these outputs" in str(raised.value.remedy)
    job.loss = lambda outputs, labels: sum(functional.cross_entropy(one, labels) for one in outputs.values())
    rehearse(job, first_batch(job))
    saliency = edgeprune.importance.score(job, edgeprune.analyze(job.model, EXAMPLE), "taylor")  # its loss takes only what training returns
    assert all(bool((values >= 0).all()) and values.any() for values in saliency.values())


class Baked(nn.Module):
    """A width and the number of samples are in its code: it can only be cut in its graph, which is of that many."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        assert x.shape[:2] == (4, 8)
        scores: Tensor = self.head(x.mean((2, 3)))
        return scores


def test_a_graph_of_one_batch_size_is_refused_before_any_work(tmp_path) -> None:
    data = [(torch.randn(6, 3, 8, 8), torch.arange(6) % 2)]
    job = Task(Baked().eval(), (torch.zeros(4, 3, 8, 8),), train=data, name="mine", epochs=0)
    with pytest.raises(CaptureError, match="input 0 is \\(6, 3, 8, 8\\), and the graph takes \\(4, 3, 8, 8\\)"):
        edgeprune.prune(
            job, profile="raspberry-pi-4", budget=edgeprune.Budget(macs="60%"), runs=tmp_path,
            options=edgeprune.Options(engine="torchscript", formats=("torchscript",)),
        )  # fmt: skip
